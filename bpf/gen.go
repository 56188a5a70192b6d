// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the C programs and their generated Go bindings. The object
// is committed, so that building needs Go alone; `make generate` rebuilds it
// with the one clang version named here.
package bpf

//go:generate go tool bpf2go -tags linux -target bpfel -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" -type wfp_values -type wfp_verdict -type wfp_layer -type wfp_amendment -type wfp_field -type wfp_bucket -type wfp_branch -type wfp_candidate -type wfp_cut -type wfp_filter -type wfp_principal -type wfp_generation -type wfp_link -type wfp_route_key -type wfp_route -type wfp_config -type wfp_socket -type wfp_flow_key -type wfp_flow -type wfp_target_key -type wfp_end -type wfp_event -type wfp_case -type wfp_judge_run -type wfp_layer_id -type wfp_slot -type wfp_action -type wfp_limit -type wfp_candidate_flag -type wfp_field_flag -type wfp_layer_flag -type wfp_principal_kind -type wfp_link_flag -type wfp_nic -type wfp_network -type wfp_counter -type wfp_flag -type wfp_discard_module -type wfp_discard_reason -type wfp_drop -type wfp_drop_at -type wfp_drop_stage -no-global-types WFP wfpebpf.c
