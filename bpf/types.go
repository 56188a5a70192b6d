// SPDX-License-Identifier: Apache-2.0

package bpf

// The C structures under names of their own. The fields are those of wfp.h,
// where they are explained.
type (
	Values     = WFPWfpValues
	Verdict    = WFPWfpVerdict
	Layer      = WFPWfpLayer
	Amendment  = WFPWfpAmendment
	Field      = WFPWfpField
	Bucket     = WFPWfpBucket
	Branch     = WFPWfpBranch
	Candidate  = WFPWfpCandidate
	Cut        = WFPWfpCut
	Filter     = WFPWfpFilter
	Principal  = WFPWfpPrincipal
	Generation = WFPWfpGeneration
	Link       = WFPWfpLink
	RouteKey   = WFPWfpRouteKey
	Route      = WFPWfpRoute
	Config     = WFPWfpConfig
	Event      = WFPWfpEvent
	TargetKey  = WFPWfpTargetKey
	End        = WFPWfpEnd
	Drop       = WFPWfpDrop
	Case       = WFPWfpCase
	JudgeRun   = WFPWfpJudgeRun
)

// Limits and constants of wfp.h.
const (
	Slots        = int(WFPWfpSlotWFP_SLOTS)
	LayerSlots   = int(WFPWfpLayerIdWFP_LAYERS)
	MaxFields    = int(WFPWfpLimitWFP_MAX_FIELDS)
	MaxSubLayers = int(WFPWfpLimitWFP_MAX_SUBLAYERS)
	CellPages    = int(WFPWfpLimitWFP_PAGES_cells)
	CellPage     = int(WFPWfpLimitWFP_PAGE_cells)
	BucketPages  = int(WFPWfpLimitWFP_PAGES_buckets)
	BucketPage   = int(WFPWfpLimitWFP_PAGE_buckets)
	BranchPages  = int(WFPWfpLimitWFP_PAGES_branches)
	BranchPage   = int(WFPWfpLimitWFP_PAGE_branches)
	CutPages     = int(WFPWfpLimitWFP_PAGES_cuts)
	CutPage      = int(WFPWfpLimitWFP_PAGE_cuts)
	FilterPage   = int(WFPWfpLimitWFP_PAGE_filters)
	HitsPage     = int(WFPWfpLimitWFP_PAGE_hits)
	MaxWide      = int(WFPWfpLimitWFP_MAX_WIDE)
	Levels       = int(WFPWfpLimitWFP_LEVELS)
	ClassWords   = int(WFPWfpLimitWFP_CLASS_WORDS)
	Candidates   = int(WFPWfpLimitWFP_CANDIDATES)
	Pending      = int(WFPWfpLimitWFP_PENDING)
	Generations  = int(WFPWfpLimitWFP_GENERATIONS)
	Editions     = int(WFPWfpLimitWFP_EDITIONS)
	PagesAmended = int(WFPWfpLimitWFP_PAGES_AMENDED)
	Added        = int(WFPWfpLimitWFP_ADDED)
	CgroupLevels = int(WFPWfpLimitWFP_CGROUP_LEVELS)
	JudgeCases   = int(WFPWfpLimitWFP_JUDGE_CASES)
	Redirects    = int(WFPWfpLimitWFP_REDIRECTS)
	Span         = int(WFPWfpLimitWFP_SPAN)
	Line         = int(WFPWfpLimitWFP_LINE)
	LinePoints   = int(WFPWfpLimitWFP_LINE_POINTS)
	MaxLines     = int(WFPWfpLimitWFP_MAX_LINES)
	MaxNodes     = int(WFPWfpLimitWFP_MAX_NODES)

	// Leaf marks a node's entry as a leaf (WFP_LEAF).
	Leaf = uint32(0x80000000)
	// BucketFlag marks it as a bucket (WFP_BUCKET).
	BucketFlag = uint32(0x40000000)
	// SecondFlag marks it as one where the value's second word counts (WFP_SECOND).
	SecondFlag = uint32(0x20000000)

	// StampEdition and StampCommit are where in a stamp the edition and the number of
	// the commit begin; before them stands the generation of the tables
	// (WFP_STAMP_*).
	StampEdition = 1
	StampCommit  = 4
	// StampUnsettled marks a stamp while the tables in force are being changed
	// (WFP_STAMP_UNSETTLED).
	StampUnsettled = uint64(1) << 63

	// DropReasons is how many drop reasons of the kernel there is room for
	// (WFP_DROP_REASONS).
	DropReasons = 512

	// NodeCells is the cells of a node (WFP_NODE_CELLS).
	NodeCells = 256

	// What an upper half of an IPv4 address leads to (WFP_ENTRY_*, WFP_NODE_BITS).
	EntryPoints = uint32(0x80000000)
	EntryHalf   = uint32(0x3fffff)
	EntryWords  = 24
	EntryLine   = uint32(0x1fffff)
	EntryClass  = 21
	EntryNode   = 29
	NodeBits    = uint32(0x8530)

	// A candidate's key (WFP_KEY_*): sublayer, place in evaluation order, which of the
	// filters that were added before that place or, as KeyLaid, the one that the
	// tables have there, and two bits of the action.
	KeySubLayer = 26
	KeyPlace    = 9
	KeyAdded    = 2
	KeyLaid     = uint32(126)
	KeyBlock    = uint32(2)
	KeyHard     = uint32(1)
	KeyNone     = ^uint32(0)

	BucketBounds = int(WFPWfpLimitWFP_BUCKET_BOUNDS)

	CandidateMore  = uint8(WFPWfpCandidateFlagWFP_CANDIDATE_MORE)
	CandidateTable = uint8(WFPWfpCandidateFlagWFP_CANDIDATE_TABLE)

	FieldClass   = uint32(WFPWfpFieldFlagWFP_FIELD_CLASS)
	FieldClasses = uint32(WFPWfpFieldFlagWFP_FIELD_CLASSES)
	FieldHeads   = uint32(WFPWfpFieldFlagWFP_FIELD_HEADS)
	FieldPoints  = uint32(WFPWfpFieldFlagWFP_FIELD_POINTS)
	FieldLines   = uint32(WFPWfpFieldFlagWFP_FIELD_LINES)

	EphemeralUniform = uint32(WFPWfpLayerFlagWFP_LAYER_EPHEMERAL_UNIFORM)
	LayerAdded       = uint32(WFPWfpLayerFlagWFP_LAYER_ADDED)
	LayerRemoved     = uint32(WFPWfpLayerFlagWFP_LAYER_REMOVED)

	PrincipalApp     = uint32(WFPWfpPrincipalKindWFP_PRINCIPAL_APP)
	PrincipalUID     = uint32(WFPWfpPrincipalKindWFP_PRINCIPAL_UID)
	PrincipalGID     = uint32(WFPWfpPrincipalKindWFP_PRINCIPAL_GID)
	PrincipalService = uint32(WFPWfpPrincipalKindWFP_PRINCIPAL_SERVICE)
	PrincipalPackage = uint32(WFPWfpPrincipalKindWFP_PRINCIPAL_PACKAGE)

	LinkLoopback = uint32(WFPWfpLinkFlagWFP_LINK_LOOPBACK)
	LinkEthernet = uint32(WFPWfpLinkFlagWFP_LINK_ETHERNET)

	NICExternal  = uint32(WFPWfpNicWFP_NIC_EXTERNAL)
	NICSynthetic = uint32(WFPWfpNicWFP_NIC_SYNTHETIC)
	NICInternal  = uint32(WFPWfpNicWFP_NIC_INTERNAL)

	NetworkInternal = uint32(WFPWfpNetworkWFP_NETWORK_INTERNAL)
	NetworkExternal = uint32(WFPWfpNetworkWFP_NETWORK_EXTERNAL)

	CounterLost       = uint32(WFPWfpCounterWFP_COUNTER_LOST)
	CounterError      = uint32(WFPWfpCounterWFP_COUNTER_ERROR)
	CounterNoIdentity = uint32(WFPWfpCounterWFP_COUNTER_NO_IDENTITY)
	CounterNoLink     = uint32(WFPWfpCounterWFP_COUNTER_NO_LINK)
	CounterUnreadable = uint32(WFPWfpCounterWFP_COUNTER_UNREADABLE)
)
