# SPDX-License-Identifier: Apache-2.0
#
# `make` lists the targets. A build needs Go only: the BPF objects are
# committed. What touches the kernel (test, difftest, bench) wants root.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

GO       ?= go
FUZZTIME ?= 60s
BENCH    ?= .

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

.PHONY: check-generate
check-generate: ## Fail where the committed BPF objects are not those of the source
	@if ! $(MAKE) --no-print-directory clang; then
	  echo "check-generate: not checked" >&2
	  if [ "$${CI:-}" = true ]; then exit 1; else exit 0; fi
	fi
	$(MAKE) --no-print-directory generate
	git diff --stat --exit-code -- bpf loader

.PHONY: fmt-check
fmt-check:
	@unformatted=$$(gofmt -l .)
	if [ -n "$$unformatted" ]; then
	  printf 'not gofmt-ed:\n%s\n' "$$unformatted" >&2
	  exit 1
	fi

.PHONY: unit
unit: ## Test what needs no root and no kernel
	$(GO) test -count=1 ./layermap/... ./filter/... ./policy/... ./cmd/...

.PHONY: deps
deps:
	@.ci/deps

# One package at a time: tests of the kernel list its programs and links, and
# time what sockets see.
.PHONY: test
test: deps fmt-check ## Test everything (root: also what needs the kernel)
	$(GO) vet ./...
	$(GO) test -count=1 -p 1 -timeout 50m ./...

.PHONY: difftest
difftest: ## Hold the BPF classifier against the oracle (tests named TestDiff*)
	$(GO) test -count=1 -p 1 -timeout 50m -v -run '^TestDiff' ./...

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (60s)
	@for package in $$($(GO) list ./...); do
	  for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do
	    echo "$$package $$target"
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package
	  done
	done

.PHONY: bench
bench: ## Run the benchmarks that match BENCH (all)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -p 1 -timeout 50m ./...

.ONESHELL:
