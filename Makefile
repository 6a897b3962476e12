# Needs make, and a Python from 3.11 to 3.13; everything else is installed into .venv, as requirements/*.txt lock it.

# One shell runs a whole recipe, and stops at the first command that fails.
SHELL := /bin/sh
.SHELLFLAGS := -euc
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Running it also weeds out names that stand in the path but start nothing.
IS_SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3; do \
	"$$name" -c '$(IS_SUPPORTED)' 2>/dev/null && echo "$$name" && break; done)
# The oldest one that is supported: what it leads to also installs on the newer ones, which need fewer packages.
LOCK_PYTHON ?= python3.11

VENV := .venv
NODE_MODULES := tests/real/node_modules
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# What a target starts, as PACKAGE:COMMAND or PACKAGE:FILE, for not each command has the name of its Debian package.
# Tests start clients, and make networks for them. The real opencode's are started by node, on a screen of tmux's.
SYSTEM_PACKAGES := curl:curl chromium:chromium openssl:openssl iproute2:ip iptables:/usr/sbin/iptables \
	nodejs:node npm:npm tmux:tmux git:git systemd:systemd-analyze prometheus:promtool
# What `bench-peers` compares with.
PEER_PACKAGES := libnginx-mod-nchan:/usr/lib/nginx/modules/ngx_nchan_module.so nginx-light:/usr/sbin/nginx \
	redis-server:redis-server gcc:gcc libc6-dev:/usr/include/stdio.h

RUN_ARGS ?=
BENCH_ARGS ?=
PEERS_ARGS ?=
SOAK_ARGS ?=
PYTEST_ARGS ?=
# As many as cores are certain: with more, what waits for a limit waits too long for it.
TEST_PROCESSES ?= 2

# $(call apt_install,PACKAGES,WHAT FOR)
define apt_install
if ! command -v apt-get >/dev/null; then echo "$(2) needs $(1), and there is no apt-get here: please install it." >&2; exit 1; fi
if [ "$$(id -u)" = 0 ]; then sudo=; elif command -v sudo >/dev/null; then sudo=sudo; else
	echo "$(2) needs $(1). As root: apt-get install $(1)" >&2; exit 1; fi
echo "installing $(1) with apt-get"
$$sudo apt-get update -qq || echo "apt-get update failed; trying with the lists that are here" >&2
$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $(1) </dev/null >/dev/null
endef

# $(call install_missing,PAIRS,WHAT FOR): a pair is as those of SYSTEM_PACKAGES.
define install_missing
missing=
for pair in $(1); do
	if ! command -v "$${pair#*:}" >/dev/null && ! [ -e "$${pair#*:}" ]; then missing="$${missing:+$$missing }$${pair%%:*}"; fi
done
if [ -z "$$missing" ]; then exit 0; fi
$(call apt_install,$$missing,$(2))
endef

.PHONY: help
help:  ## say what can be made (this list)
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: $(VENV)/.runtime  ## start the daemon in the foreground; RUN_ARGS="--port 4000" adds options
	@exec $(BIN)/opencode-events run $(RUN_ARGS)

.PHONY: test
test: $(VENV)/.dev .system-packages $(NODE_MODULES)/.installed  ## run all tests, with branch coverage; PYTEST_ARGS="-k backlog" selects
	@$(BIN)/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=loadfile --cov --cov-report=term-missing:skip-covered $(PYTEST_ARGS)

.PHONY: soak
soak: $(VENV)/.dev .system-packages  ## ten minutes at the default limits: who is kept, who is ended, and when; SOAK_ARGS adds options
	@$(BIN)/python -m tests.network.soak $(SOAK_ARGS)

.PHONY: lint
lint: $(VENV)/.dev  ## check style, format and types
	@$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.PHONY: format
format: $(VENV)/.dev  ## apply the format and the fixes that are safe
	@$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The daemon gets every descriptor that the machine allows: each subscriber costs one.
.PHONY: bench
bench: $(VENV)/.runtime  ## measure a fresh daemon on a free port; BENCH_ARGS adds options
	@state=$$(mktemp -d)
	ulimit -n "$$(ulimit -Hn)" || true
	$(BIN)/opencode-events run --port 0 --state-dir "$$state" >"$$state/output" 2>&1 &
	daemon=$$!
	trap 'kill $$daemon 2>/dev/null || true; wait $$daemon || true; rm -rf "$$state"' EXIT
	trap 'exit 130' INT TERM
	tries=0
	until [ -s "$$state/daemon.json" ]; do
		tries=$$((tries + 1))
		if ! kill -0 $$daemon 2>/dev/null || [ $$tries -gt 100 ]; then
			echo "the daemon did not start; it said:" >&2; cat "$$state/output" >&2; exit 1
		fi
		sleep 0.1
	done
	$(BIN)/opencode-events bench --state-dir "$$state" $(BENCH_ARGS)

.PHONY: bench-peers
bench-peers: $(VENV)/.runtime .peer-packages  ## the same beside nchan, Redis and C; installs them, and Debian starts what it installs; PEERS_ARGS
	@$(BIN)/python -m tests.peers.compare $(PEERS_ARGS)

.PHONY: wheel
wheel: $(VENV)/.runtime  ## build dist/*.whl
	@rm -rf build/lib build/bdist.* dist
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	ls dist

.PHONY: lock upgrade
lock: build/lock/.done  ## write requirements/*.txt anew from pyproject.toml, keeping the versions that still fit
upgrade: build/lock/.done  ## the same with the newest versions
lock upgrade:
	@export CUSTOM_COMPILE_COMMAND="make lock"
	compile() {
		build/lock/bin/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url \
			--no-emit-trusted-host --no-emit-find-links $(if $(filter upgrade,$@),--upgrade) "$$@" pyproject.toml
	}
	compile --output-file requirements/runtime.txt
	compile --output-file requirements/dev.txt --extra dev --constraint requirements/runtime.txt
	compile --output-file requirements/build.txt --build-deps-for wheel --build-deps-for editable --only-build-deps

.PHONY: clean
clean:  ## remove everything that was made, .venv included
	@rm -rf $(VENV) $(NODE_MODULES) build dist *.egg-info .coverage .coverage.* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# From here on: files and checks that the targets above stand on. A stamp is as new as what was installed under it.

.PHONY: .system-packages
.system-packages:
	@$(call install_missing,$(SYSTEM_PACKAGES),make test)

.PHONY: .peer-packages
.peer-packages:
	@$(call install_missing,$(PEER_PACKAGES),make bench-peers)

# Debian keeps what `venv` needs in a package of its own.
$(VENV)/.created:
	@python="$(PYTHON)"
	if ! "$$python" -c '$(IS_SUPPORTED)' 2>/dev/null; then
		echo "$${python:-The search path} gives no Python from 3.11 to 3.13. Install one, or name it: make PYTHON=/path/to/it" >&2
		exit 1
	fi
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then
		package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
		$(call apt_install,$$package,making $(VENV))
	fi
	echo "making $(VENV) with $$("$$python" --version)"
	rm -rf $(VENV)
	"$$python" -m venv $(VENV)
	touch $@

# --no-build-isolation: the build takes the locked setuptools, not the newest one.
$(VENV)/.runtime: $(VENV)/.created requirements/build.txt requirements/runtime.txt pyproject.toml setup.cfg opencode_events/__init__.py
	@echo "installing requirements/runtime.txt and the package itself"
	$(PIP) install --require-hashes -r requirements/build.txt -r requirements/runtime.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@

# The lock has everything: --no-deps, or pip wants an extra of a package (coverage[toml]) to be pinned beside the package.
$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	@echo "installing requirements/dev.txt"
	$(PIP) install --require-hashes --no-deps -r requirements/dev.txt
	touch $@

# opencode and the programs that talk to it, for the tests that want the real ones: for Linux on x86-64 only. To change a
# version, change it in package.json, and run `npm install` there.
$(NODE_MODULES)/.installed: tests/real/package.json tests/real/package-lock.json tests/real/.npmrc | .system-packages
	@echo "installing tests/real/package-lock.json"
	cd tests/real && npm ci --loglevel=error
	touch node_modules/.installed

build/lock/.done:
	@$(LOCK_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
		echo "The locks are made with Python 3.11: make lock LOCK_PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(LOCK_PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --disable-pip-version-check --quiet install pip-tools
	touch $@
