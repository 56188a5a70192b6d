// SPDX-License-Identifier: Apache-2.0

package kernels

import (
	"fmt"
	"strings"

	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
)

// layerMark begins a line of LayerLines.
const layerMark = "layer "

// LayerLines says of each layer that runs whether this kernel can carry it, and by what
// means or why not, a line a layer, as wfpebpf layers does.
func LayerLines() string {
	var b strings.Builder
	for _, s := range loader.Probe() {
		l := layermap.ByID(s.Layer)
		if !l.Hook().Live {
			continue
		}
		here := map[bool]string{true: "yes", false: "no"}[s.Available]
		fmt.Fprintln(&b, strings.TrimSpace(layerMark+l.Name+" "+here+" "+s.Reason))
	}
	return b.String()
}

// ParseLayerLines finds the lines of LayerLines in a test's output, without their mark.
func ParseLayerLines(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, layerMark); ok {
			b.WriteString(rest)
		}
	}
	return b.String()
}

// WithoutMeans leaves of each line the layer and whether it is carried: by what means
// depends on how the machine was started, too.
func WithoutMeans(lines string) string {
	var b strings.Builder
	for line := range strings.Lines(lines) {
		words := strings.Fields(line)
		b.WriteString(strings.Join(words[:min(2, len(words))], " ") + "\n")
	}
	return b.String()
}
