# Everything that people and CI call. `make help` lists it; the scripts are in make/.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# How the binaries of the images are built: `image` compiles quickly, `release` is smaller and faster.
PROFILE ?= image
TARGET  := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')

export PROFILE TARGET
export CARGO_TERM_COLOR ?= auto

.PHONY: help
help: ## List what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the static release binary: target/<host>/release/interlock
	@PROFILE=release make/static.sh interlock

.PHONY: image
image: ## Build the images: interlock, interlock-haproxy, interlock-nginx and what tests need
	@make/images.sh

.PHONY: demo
demo: ## Start operator, two proxies and three apps, ask every route, leave it running
	@make/demo.sh up

.PHONY: demo-down
demo-down: ## Remove every trace of the demo (KEEP_IMAGES=1 keeps the images)
	@make/demo.sh down

.PHONY: test
test: ## Everything that must hold: formatting, lints, unit, golden, driver and end-to-end tests
	@make/test.sh all

.PHONY: test-matrix
test-matrix: image ## The tests of rendering and serving with HAProxy and nginx of every suite of Debian that answers
	@make/matrix.sh all

.PHONY: unit
unit: ## The tests that need no engine
	@make/test.sh unit

.PHONY: e2e
e2e: ## The end-to-end tests on the real engine (FILTER=name for some of them)
	@make/test.sh e2e

.PHONY: bench
bench: image ## How fast routes come alive, what that costs, what is lost: a report (ROWS=fast for some; BENCH_SAMPLES=5 for a try)
	@make/bench.sh

.PHONY: lint
lint: ## Formatting and lints as errors
	@make/test.sh lint

.PHONY: mutants
mutants: ## Break the core in named ways, one at a time: each must turn a test red
	@make/mutants.sh

.PHONY: golden
golden: ## Write the golden files anew (then read the difference)
	UPDATE_GOLDEN=1 cargo test --package interlock-core --test golden

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: clean
clean: ## Remove what was built here, images included
	@make/images.sh clean
	rm -rf target/make
	cargo clean
