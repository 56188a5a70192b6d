/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Who owns a socket: taken from the current task when the socket is made or
 * used, kept in socket storage, and turned into the numbers that the policy in
 * force gives to executables, tokens and packages.
 */
#pragma once

#include "classify.h"

/* The kernel's structures, as far as they are read (CO-RE relocates them). */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct super_block {
	__u32 s_dev;
};
struct inode {
	unsigned long i_ino;
	struct super_block *i_sb;
};
struct file {
	struct inode *f_inode;
};
struct mm_struct {
	struct file *exe_file;
};
struct kernfs_node {
	__u64 id;
};
struct cgroup {
	int level;
	struct kernfs_node *kn;
	struct cgroup *ancestors[]; /* 6.1 */
};
struct css_set {
	struct cgroup *dfl_cgrp;
};
typedef struct {
	__u32 val;
} kuid_t;
struct cred {
	kuid_t fsuid;
	kuid_t fsgid;
};
struct task_struct {
	struct mm_struct *mm;
	struct css_set *cgroups;
	const struct cred *cred;
	int tgid;
	struct task_struct *group_leader;
	__u64 start_time;
};
#pragma clang attribute pop

/* Fills in a task's identity; the socket's state is not touched. */
static __always_inline void identify_task(struct wfp_socket *s, struct task_struct *task)
{
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	int level = BPF_CORE_READ(cgroup, level);

	s->pid = BPF_CORE_READ(task, tgid);
	s->started = BPF_CORE_READ(task, group_leader, start_time);
	/* as the kernel's own sk_uid; sock_ops may not ask for the current one (6.12) */
	s->uid = BPF_CORE_READ(task, cred, fsuid.val);
	s->gid = BPF_CORE_READ(task, cred, fsgid.val);
	s->inode = 0;
	s->dev = 0;
	if (mm) {
		struct inode *inode = BPF_CORE_READ(mm, exe_file, f_inode);

		s->inode = BPF_CORE_READ(inode, i_ino);
		s->dev = BPF_CORE_READ(inode, i_sb, s_dev);
	}
	for (int i = 0; i < WFP_CGROUP_LEVELS; i++) {
		struct cgroup *ancestor = NULL;

		s->cgroup[i] = 0;
		if (i + 1 > level)
			continue;
		bpf_core_read(&ancestor, sizeof(ancestor), &cgroup->ancestors[i + 1]);
		s->cgroup[i] = BPF_CORE_READ(ancestor, kn, id);
	}
}

static __always_inline void identify_current(struct wfp_socket *s, __u64 netns_cookie,
					     const void *socket)
{
	identify_task(s, (struct task_struct *)bpf_get_current_task());
	s->netns_cookie = netns_cookie;
	s->self = (__u64)socket;
}

static __always_inline __u32 principal(void *table, __u32 kind, __u32 dev, __u64 id)
{
	struct wfp_principal key = { .kind = kind, .dev = dev, .id = id };
	__u32 *number = bpf_map_lookup_elem(table, &key);

	return number ? *number : 0;
}

/* The number of the innermost of a task's cgroups that the policy names. */
static __always_inline __u32 cgroup_number(void *table, struct wfp_socket *s, __u32 kind)
{
	for (int i = WFP_CGROUP_LEVELS - 1; i >= 0; i--) {
		__u32 number;

		if (!s->cgroup[i])
			continue;
		number = principal(table, kind, 0, s->cgroup[i]);
		if (number)
			return number;
	}
	return 0;
}

/* Puts the identity fields that the layer tests; no socket is the system. */
__noinline int wfp_put_identity(struct wfp_values *v, struct wfp_socket *s, __u32 used)
{
	struct wfp_generation *g;
	__u32 tables, uid, gid, service = 0;
	void *table;

	if (!v)
		return 0;
	tables = tables_of(v->generation);
	table = bpf_map_lookup_elem(&principals, &tables);
	g = bpf_map_lookup_elem(&generations, &tables);
	if (!table || !g)
		return 0;
	if (used & (1U << WFP_SLOT_APP)) {
		put(v, WFP_SLOT_APP, !s || !s->inode ?
			g->system_app : principal(table, WFP_PRINCIPAL_APP, s->dev, s->inode));
	}
	if (used & (1U << WFP_SLOT_USER)) {
		uid = principal(table, WFP_PRINCIPAL_UID, 0, s ? s->uid : 0);
		gid = principal(table, WFP_PRINCIPAL_GID, 0, s ? s->gid : 0);
		if (s && g->has_services)
			service = cgroup_number(table, s, WFP_PRINCIPAL_SERVICE);
		put(v, WFP_SLOT_USER, ((__u64)uid * g->gids + gid) * g->services + service);
	}
	if (used & (1U << WFP_SLOT_PACKAGE)) {
		put(v, WFP_SLOT_PACKAGE, s && g->has_packages ?
			cgroup_number(table, s, WFP_PRINCIPAL_PACKAGE) : 0);
	}
	return 0;
}
