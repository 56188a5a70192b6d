// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"crypto/sha256"
	"encoding/hex"
	"sync"
)

// Version tells the programs and maps of one version from those of another: it
// is a hash of the object.
var Version = sync.OnceValue(func() string {
	sum := sha256.Sum256(_WFPBytes)
	return hex.EncodeToString(sum[:8])
})
