// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// Engine is one instance.
type Engine struct{}

// Open opens the target's instance, or prepares a new one; nothing exists
// before the first Commit.
func Open(opts Options) (*Engine, error) { return nil, errors.ErrUnsupported }

// Find opens an instance that exists. An empty target finds the only one.
func Find(t Target) (*Engine, error) { return nil, errors.ErrUnsupported }

// Instances lists the instances that exist.
func Instances() ([]Target, error) { return nil, errors.ErrUnsupported }

// Close releases the process's handles; enforcement stays.
func (e *Engine) Close() error { return nil }

// Unavailable says which of a policy's layers this kernel cannot carry. Their
// filters must be refused before Commit.
func (e *Engine) Unavailable(p *policy.Policy) map[layermap.LayerID]string { return nil }

// Commit compiles the policy, attaches the hooks that it needs and puts it in
// force by one store. On an error the policy before stays in force.
func (e *Engine) Commit(ctx context.Context, p *policy.Policy) error { return errors.ErrUnsupported }

// Rollback puts the policy before the last Commit in force again; where there
// was none it is Down.
func (e *Engine) Rollback() error { return errors.ErrUnsupported }

// SetUnconfirmed marks that the last commit waits for confirm; Confirm clears it
// and reports whether it was set.
func (e *Engine) SetUnconfirmed() error  { return errors.ErrUnsupported }
func (e *Engine) Confirm() (bool, error) { return false, errors.ErrUnsupported }
func (e *Engine) Unconfirmed() bool      { return false }

// Down removes everything of the instance, and nothing else.
func (e *Engine) Down() error { return errors.ErrUnsupported }

// AttachLink and DetachLink add or remove a link while the policy is enforced.
func (e *Engine) AttachLink(name string) error { return errors.ErrUnsupported }
func (e *Engine) DetachLink(name string) error { return errors.ErrUnsupported }

// Watch keeps current what changes (links, addresses, routes, replaced
// executables) until the context ends; report is told each change.
func (e *Engine) Watch(ctx context.Context, report func(string)) error { return errors.ErrUnsupported }

// Events calls fn for each event. Without follow it returns when none is left.
func (e *Engine) Events(ctx context.Context, follow, permits bool, fn func(Event) error) error {
	return errors.ErrUnsupported
}

// Judge asks the kernel for the verdicts of a layer on values in FWPS order.
func (e *Engine) Judge(layer layermap.LayerID, values []filter.Values) ([]Verdict, error) {
	return nil, errors.ErrUnsupported
}

func (e *Engine) Filters() ([]FilterRow, error)     { return nil, errors.ErrUnsupported }
func (e *Engine) SubLayers() ([]SubLayerRow, error) { return nil, errors.ErrUnsupported }
func (e *Engine) Callouts() ([]CalloutRow, error)   { return nil, errors.ErrUnsupported }
func (e *Engine) Hooks() ([]HookRow, error)         { return nil, errors.ErrUnsupported }
func (e *Engine) State() (State, error)             { return State{}, errors.ErrUnsupported }

// Store returns the objects of the policy in force, for explain --live.
func (e *Engine) Store() *filter.Store { return nil }

// Probe asks the kernel what it can do for each layer.
func Probe() []LayerStatus { return nil }

// CheckCapabilities names the first capability that the process lacks.
func CheckCapabilities() error { return nil }
