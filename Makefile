# Every target makes the environment ready first (tools/setup.sh): the first call installs, later
# calls go straight on. PYTHON=… picks the interpreter, ARGS=… is handed to the command.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PY := .venv/bin/python
export PYTHONNOUSERSITE := 1
export PYTHON

# The environment brings its own ROS 2. A sourced installation would put its libraries in front.
unexport PYTHONPATH AMENT_PREFIX_PATH COLCON_PREFIX_PATH CMAKE_PREFIX_PATH
unexport ROS_DISTRO ROS_VERSION ROS_PYTHON_VERSION RMW_IMPLEMENTATION
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE
empty :=
space := $(empty) $(empty)
LIBRARIES := $(filter-out /opt/ros/%,$(subst :,$(space),$(LD_LIBRARY_PATH)))
export LD_LIBRARY_PATH := $(subst $(space),:,$(strip $(LIBRARIES)))

# Whole files side by side, so that what a file makes for its tests is made once; each process has
# a ROS domain of its own. More than four would fight for memory rather than save time.
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist loadfile

.PHONY: help setup demo demo-full test test-long lint format bench compare clean distclean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup:  ## make .venv ready (every other target does this itself)
	@tools/setup.sh

demo: setup  ## record, show the bags, run the shipped policy for 20 episodes, write the report
	@.venv/bin/vla_demo $(ARGS)

demo-full: setup  ## from nothing: demonstrations, training, evaluation; goes on where it stopped
	@.venv/bin/vla_demo full $(ARGS)

test: setup  ## the tests, without the long ones, on as many cores as there are
	@$(PY) -m pytest $(SIDE_BY_SIDE) $(ARGS)

test-long: setup  ## the tests that take minutes
	@$(PY) -m pytest -m long $(ARGS)

lint: setup  ## ruff
	@$(PY) -m ruff check . $(ARGS)

format: setup  ## let ruff mend what it safely can
	@$(PY) -m ruff check --fix . $(ARGS)

bench: setup  ## measure, against peers and limits; writes bench/results.json
	@$(PY) -m bench $(ARGS)

compare: setup  ## every alignment strategy on the same data, into docs/alignment_comparison.md
	@$(PY) -m bench.compare $(ARGS)

clean:  ## remove caches and builds (recordings, runs and .venv stay)
	@rm -rf build install log .pytest_cache .ruff_cache .hypothesis ./*.egg-info
	@find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

distclean: clean  ## clean, and remove .venv
	@rm -rf .venv
