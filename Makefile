# SPDX-License-Identifier: Apache-2.0
#
# `make` lists the targets. A build needs Go only: the BPF objects are
# committed. What touches the kernel (test, difftest, bench) wants root.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

GO       ?= go
FUZZTIME ?= 60s
BENCH    ?=
DIFF_PAIRS ?= 1000000
DIFF_SEED  ?= $(shell date +%s)
COMMITS    ?= 1000

# The compiler that the committed BPF objects were made with. Another version
# makes other bytes, and check-generate would report a difference.
CLANG         := clang-19
CLANG_PACKAGE := clang-19
STRIP         := llvm-strip-19
STRIP_PACKAGE := llvm-19

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the commands into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/...

.PHONY: clang
clang:
	@missing=
	command -v $(CLANG) >/dev/null || missing+=" $(CLANG_PACKAGE)"
	command -v $(STRIP) >/dev/null || missing+=" $(STRIP_PACKAGE)"
	if [ -n "$$missing" ]; then
	  echo "The BPF programs are compiled with $(CLANG). Missing Debian packages:$$missing" >&2
	  exit 1
	fi

.PHONY: generate
generate: clang ## Compile the BPF programs and write their Go bindings
	$(GO) generate ./...

# In a copy elsewhere, so that work in progress stays as it is and no path gets
# into the object unnoticed.
.PHONY: check-generate
check-generate: ## Fail where the committed BPF objects are not those of the source
	@if ! $(MAKE) --no-print-directory clang; then
	  echo "check-generate: not checked" >&2
	  if [ "$${CI:-}" = true ]; then exit 1; else exit 0; fi
	fi
	copy=$$(mktemp -d)
	trap 'rm -rf "$$copy"' EXIT
	tar --exclude=./.git --exclude=./bin -cf - . | tar -xf - -C "$$copy"
	find "$$copy" -name '*_bpfel.*' -delete
	(cd "$$copy" && $(GO) generate ./...)
	differ=$$(diff -rq . "$$copy" | grep _bpfel || true)
	if [ -n "$$differ" ]; then
	  printf '%s\n' "$$differ" "The committed files are not what their sources make: run make generate." >&2
	  exit 1
	fi

.PHONY: fmt-check
fmt-check:
	@unformatted=$$(gofmt -l .)
	if [ -n "$$unformatted" ]; then
	  printf 'not gofmt-ed:\n%s\n' "$$unformatted" >&2
	  exit 1
	fi

# Some tests of ./cmd want root and are skipped without: also in CI, which asks
# for them by test.
.PHONY: unit
unit: ## Test what needs no root and no kernel
	CI= $(GO) test -count=1 ./layermap/... ./filter/... ./policy/... ./explain/... ./cmd/...

.PHONY: deps
deps:
	@.ci/deps

# One package at a time: tests of the kernel list its programs and links, and
# time what sockets see.
.PHONY: test
test: deps check-generate fmt-check ## Test everything (root: also what needs the kernel)
	$(GO) vet ./...
	$(GO) test -count=1 -p 1 -timeout 50m ./...

.PHONY: test-kernels
test-kernels: deps ## Test on Debian's 6.1 and 6.12 under emulation, and count what the verifiers go through
	$(GO) test -count=1 -timeout 50m ./tests/kernels

# Each run looks at other policies; it prints its seed.
.PHONY: difftest
difftest: ## Hold the BPF classifier against the oracle (DIFF_PAIRS, DIFF_SEED)
	DIFF_PAIRS=$(DIFF_PAIRS) DIFF_SEED=$(DIFF_SEED) $(GO) test -count=1 -timeout 50m -v -run '^TestDiff' ./tests/diff

# In CI as many commits as half a minute allows.
.PHONY: committest
committest: ## Commit under traffic, COMMITS times (1000)
	COMMITS=$(COMMITS) $(GO) test -count=1 -timeout 20m -v -run '^TestCommitUnderTraffic$$' ./tests/live

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (60s)
	@packages=$$($(GO) list ./...)
	for package in $$packages; do
	  targets=$$($(GO) test -list '^Fuzz' $$package)
	  for target in $$(grep '^Fuzz' <<<"$$targets" || true); do
	    echo "$$package $$target"
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$package
	  done
	done

# Without BENCH: what a verdict costs, and what packets and connections cost
# beside nftables and iptables, which are left out where they are not installed,
# written to tests/bench/RESULTS.md. To measure a part, go run ./tests/bench -h.
.PHONY: bench
bench: ## Measure verdicts, packets, connections (BENCH: run the Go benchmarks that match instead)
	@if [ -z "$(BENCH)" ]; then
	  exec $(GO) run ./tests/bench -sizes 10,100,1000,10000,100000 -o tests/bench/RESULTS.md
	fi
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -p 1 -timeout 50m ./filter ./policy ./loader

.ONESHELL:
