//go:build ignore

// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * All BPF programs, one object: every hook shares one set of maps. A file a
 * hook family; each says which layers it carries.
 */
#include "hook_xdp.h"
#include "hook_tc.h"
#include "hook_sock.h"
#include "hook_sock_addr.h"
#include "hook_sockopt.h"
#include "hook_sock_ops.h"
#include "hook_redirect.h"
#include "hook_skb.h"
#include "hook_flow.h"
#include "hook_end.h"
#include "hook_listen.h"
#include "hook_netfilter.h"
#include "hook_forward.h"
#include "hook_vswitch.h"
#include "hook_above.h"
#include "hook_answer.h"
#include "hook_drop.h"
#include "hook_iter.h"
#include "hook_judge.h"

char _license[] SEC("license") = "Dual BSD/GPL";
