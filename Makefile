# rephub: build, test, demonstrate, measure. Every target works from a fresh clone.
#
#   make build    bin/rephub
#   make demo     a real guest, a disaster, two recoveries (about two minutes)
#   make test     everything; a skipped test is a failure
#   make bench    our speed next to the peers'; ONLY=tap,view RUNS=5
#   make soak     the random tests for a long time; SOAK=1h

SHELL   := /bin/bash
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
SOAK    ?= 30m
RUNS    ?= 5
ONLY    ?=

# The race detector multiplies the time of whole-process tests and sees none of
# the processes they start, so these packages run without it.
PLAIN := ./e2e/... ./demo/... ./bench/... ./scripts/... ./internal/rooms/... ./cmd/...
RACE   = $(filter-out $(shell $(GO) list $(PLAIN) 2>/dev/null),$(shell $(GO) list ./...))

.PHONY: all deps build test lint soak bench demo clean
all: build

deps:
	@scripts/deps

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/rephub ./cmd/rephub

lint:
	@files=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	  if [ -n "$$files" ]; then echo "not gofmt'ed:"; echo "$$files"; exit 1; fi
	$(GO) vet ./...
	$(GO) test -count=1 ./internal/rooms

test: deps lint build
	$(GO) run ./scripts/testgate \
	  $(GO) test -json -count=1 -race -timeout 15m $(RACE) -- \
	  $(GO) test -json -count=1 -p 1 -timeout 20m $(PLAIN)

soak: deps build
	REPHUB_SOAK=$(SOAK) $(GO) run ./scripts/testgate -v \
	  $(GO) test -json -count=1 -timeout 24h ./e2e/... ./internal/protect/...

bench: deps build
	$(GO) build -o bin/bench ./bench
	bin/bench -runs $(RUNS) -only '$(ONLY)' -out out

demo: deps build
	$(GO) build -o bin/demo ./demo
	bin/demo

clean:
	rm -rf bin out
