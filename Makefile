# make demo    run the policy on the simulated robot, in real time    ARGS='--seconds 60'
# make test    run the tests                                          PYTEST_ARGS='-k runtime'
# make check   lint and type-check
# make bench   measure on this machine          ARGS='--threads 2' NODE_ARGS='--seconds 30'
# make gpu-check   what only an NVIDIA GPU can show                  ARGS='--json gpu.json'
# make clean   remove .venv and what the tools left
# All but the last make .venv and install what is missing.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

# Installed before everything else, for the tests and for training only. On a machine without a
# GPU choose a CPU build: make test TORCH='torch --index-url <the CPU index of PyTorch>'
TORCH ?= torch==2.13.0
TEST_LIMIT ?= 45m
BIN := .venv/bin

.PHONY: demo test check bench gpu-check clean
.DEFAULT_GOAL := demo

demo:
	@tools/venv.sh demo
	@$(BIN)/dprt demo $(ARGS)

# The tests talk over DDS: on this host only, and on a domain of their own.
test:
	@TORCH='$(TORCH)' tools/venv.sh test
	@ROS_DOMAIN_ID=$${TEST_ROS_DOMAIN_ID:-$$(( 1 + $$$$ % 100 ))} \
	    ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST \
	    timeout --foreground -k 30 $(TEST_LIMIT) $(BIN)/python -m pytest $(PYTEST_ARGS)

check:
	@tools/venv.sh check
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench:
	@tools/venv.sh demo
	@mkdir -p runs/bench
	@$(BIN)/dprt bench --json runs/bench/parts.json $(ARGS)
	@$(BIN)/dprt bench --what node --json runs/bench/node.json $(NODE_ARGS)

gpu-check:
	@TORCH='$(TORCH)' tools/venv.sh train
	@$(BIN)/python tools/gpu_check.py $(ARGS)

clean:
	@rm -rf .venv build dist install log *.egg-info
	@rm -rf .pytest_cache .hypothesis .ruff_cache .mypy_cache
	@find diffusion_policy_rt launch test -name __pycache__ -prune -exec rm -rf {} +
