# SPDX-License-Identifier: Apache-2.0
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
export CGO_ENABLED := 1
export DESTDIR PREFIX

# Packages whose tests run once more in a guest with a real kernel.
KERNEL_PKGS := ./internal/sys/... ./internal/secret/... ./internal/backing/... ./internal/filesystem/... ./luks/... ./keyslot/... ./internal/volume/... ./internal/worker/... ./internal/headerbackup/... ./internal/copytree ./cmd/...

.PHONY: help
help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## install the Debian or Ubuntu packages that build, tests and guests need
	@scripts/deps

.PHONY: build
build: deps bin/voluks ## build bin/voluks

.PHONY: bin/voluks
bin/voluks:
	@mkdir -p bin
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/voluks ./cmd/voluks

.PHONY: deb rpm
deb: deps ## a package for Debian and Ubuntu, in dist/
	scripts/package/build deb

rpm: deps ## a package for Fedora, RHEL and SUSE, in dist/
	scripts/package/build rpm

.PHONY: plugin
plugin: deps bin/voluks ## a managed plugin of Docker, in dist/plugin (docs/docker.md says when)
	scripts/package/plugin dist/plugin
	@echo 'docker plugin create voluks dist/plugin'

.PHONY: install
install: ## what a package holds, into PREFIX (/usr/local) below DESTDIR; after make build, as root
	@scripts/package/install install

.PHONY: uninstall
uninstall: ## take that away again; volumes, keys and configuration stay
	@scripts/package/install uninstall

# The engines of Vault, as a server for tests; see scripts/test-transit.
TRANSIT := internal/kek/vault/transittest
bin/transitd: $(TRANSIT)/server.go $(TRANSIT)/transitd/main.go $(TRANSIT)/go.mod
	@mkdir -p bin
	CGO_ENABLED=0 go build -C $(TRANSIT) -trimpath -ldflags '-s -w' -o $(CURDIR)/bin/transitd ./transitd

.PHONY: check
check: deps ## format, vet, staticcheck, shellcheck, import rules
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo 'not formatted:'; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	go vet -tags voluks_crashpoints ./...
	go tool staticcheck ./...
	scripts/lint-shell

.PHONY: unit
unit: deps ## the fast loop: no root, no network, under 30 s
	scripts/test-unit

.PHONY: race
race: deps ## the unit tests under the race detector
	go test -race ./...

.PHONY: test-small
test-small: deps ## the packages that touch the kernel, in the small guest
	scripts/test-small $(KERNEL_PKGS)

.PHONY: test-full
test-full: deps ## the scenarios in the full guest: systemd, Docker Engine, Compose, podman
	scripts/test-full

.PHONY: test-boot
test-boot: deps ## reboots of a node in the full guest
	scripts/test-boot

.PHONY: test-packages
test-packages: deps ## install, upgrade and removal of the packages in the full guest
	scripts/test-packages

# Each suite with a guest has one, on a processor of its own, so two at a time are as many as two processors take. The longest come first; so that the others
# do not begin before them, all of these wait for the image.
GUEST_SUITES := full boot small small-cmd packages transit
SUITES := image check unit $(GUEST_SUITES)

.PHONY: test
test: deps ## everything; whatever is missing is a failure
	@echo 'Two suites at a time; what one says is shown when it has ended.'
	@done=$$(mktemp); trap 'rm -f "$$done"' EXIT; status=0; \
	VOLUKS_SUITES=$$done $(MAKE) --no-print-directory -k -j2 --output-sync=target $(SUITES:%=suite-%) 9>&2 || status=$$?; \
	echo; cat "$$done"; exit "$$status"

.PHONY: $(SUITES:%=suite-%)
$(GUEST_SUITES:%=suite-%): suite-image
suite-image: ; @scripts/suite image scripts/guest-full build
suite-check: ; @scripts/suite check $(MAKE) --no-print-directory check
suite-unit: ; @scripts/suite unit scripts/test-unit --all
suite-full: ; @scripts/suite full scripts/test-full
suite-boot: ; @scripts/suite boot scripts/test-boot
suite-small: ; @VOLUKS_GUESTS=1 scripts/suite small scripts/test-small $(filter-out ./cmd/...,$(KERNEL_PKGS))
suite-small-cmd: ; @VOLUKS_GUESTS=1 scripts/suite small-cmd scripts/test-small ./cmd/...
suite-packages: ; @scripts/suite packages scripts/test-packages
suite-transit: ; @scripts/suite transit scripts/test-transit

.PHONY: fuzz
fuzz: deps ## every fuzz target for FUZZTIME (default 30s)
	scripts/fuzz $${FUZZTIME:-30s}

.PHONY: bench
bench: deps ## the figures of docs/figures.md, as ratios measured side by side in a guest
	scripts/bench

.PHONY: demo
demo: deps ## an encrypted Compose stack in a throwaway guest, with a power cut in the middle
	scripts/demo

.PHONY: clean
clean: ## remove what was built here (the guests' cache stays: scripts/guest-full clean)
	rm -rf bin dist
