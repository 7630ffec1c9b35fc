PYTHON ?= python
GPU_JSON ?= build/gpu-backbones.json
MEDIA_TESTS = $(addprefix tests/extractors/test_,audio.py clock.py coverage.py ffmpeg.py jumps.py stream.py video.py)

.PHONY: check test torture bench ffmpeg-check gpu-check docker-check docker-check-cuda

check:  ## style, formatting and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test:  ## the whole suite; needs no network and no system package
	$(PYTHON) -m pytest -n 2

torture:  ## 560 damaged files, 207 odd but honest ones, and 50 rounds of killed processes
	TORTURE=full $(PYTHON) -m pytest -n 2 tests/torture

bench:  ## speed and memory on this machine, over a video that it makes itself
	$(PYTHON) -m pipeline bench speed
	$(PYTHON) -m pipeline bench memory
	$(PYTHON) -m pipeline bench train
	$(PYTHON) -m pipeline bench map
	$(PYTHON) -m pipeline bench softnms
	$(PYTHON) -m pipeline bench loading
	$(PYTHON) -m pipeline bench plan
	$(PYTHON) tests/benchmarks/per_window_loop.py

ffmpeg-check:  ## the media tests with other ffmpegs: make ffmpeg-check FFMPEGS="FOLDER..." , each holding a program ffmpeg
	for folder in $(FFMPEGS); do \
		PATH="$$folder:$$PATH" $(PYTHON) -m pytest -n 2 $(MEDIA_TESTS) || exit 1; \
	done

docker-check:  ## the steps of docker/cpu.Dockerfile in a clean Debian root; needs root, debootstrap and a mirror
	docker/check.sh docker/cpu.Dockerfile

docker-check-cuda:  ## likewise those of docker/cuda.Dockerfile: 6 GB with CUDA's libraries; no GPU is needed
	docker/check.sh docker/cuda.Dockerfile

gpu-check:  ## tests and timings that need a CUDA device; fails when there is none
	$(PYTHON) -c "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 'no CUDA device on this machine')"
	$(PYTHON) -m pytest -m gpu
	$(PYTHON) -m pipeline bench precision --device cuda
	$(PYTHON) -m pipeline bench epoch --device cuda
	mkdir -p $(dir $(GPU_JSON))
	$(PYTHON) -m pipeline bench busy --device cuda --json $(dir $(GPU_JSON))gpu-busy.json
	$(PYTHON) -m pipeline bench backbones --device cuda --json $(GPU_JSON)
