# Every target makes what it needs: on a fresh machine, Python 3.11 and make are enough (or PYTHON=python3.12).
#   make help                    these lines
#   make lab                     the whole experiment on phantoms, ending in the report
#   make lab DATA=chest_xray.zip the same on real X-rays; ARGS="--seeds 3" are more options of pneumoprune lab
#   make test                    everything that must hold, or PART='nbs/05_evaluation.ipynb tests/test_run.py'
#   make test-hard               what takes longer: thousands of networks, whole libraries of architectures
#   make fuzz                    random files for the readers of files, SECONDS=60 (or at most RUNS) for each of six kinds
#   make coverage                which lines notebooks and tests reach together
#   make mutants                 whether the tests notice changed code in compaction, evaluation, pruning and slimming
#   make survives                kills, power cuts, full disks, damages and bad inputs, for the table in README.md
#   make audit                   known holes in the versions of constraints.txt; it fails where one can't be looked up
#   make bench                   how fast everything is, and against what, in a quarter of an hour (PART=one of its parts)
#   make report                  the report of the reference run (or RUN=folder), English and Russian
#   make page                    the page of the shipped network (or SOURCE=run or file), for the browser; needs node
#   make test-page               the page under Node and in Chromium, compared with predict
#   make notebooks               the chapters in JupyterLab
#   make chapters                all chapters executed anew, their outputs saved (or CHAPTERS=nbs/11_alexnet.ipynb)
#   make readme                  the tables of README.md, from the reference run and from bench/
#   make constraints             constraints.txt anew, from what is installed
#   make clean                   away with the environment and everything that was made
PYTHON ?= python3.11
BIN    := .venv/bin
DATA   ?=
OUT    ?= results/$(if $(DATA),run,phantoms)
ARGS   ?=
RUN    ?= results/reference
SOURCE ?=
PAGE   ?= _page
PART   ?=
SECONDS ?= 60
RUNS   ?= -1
MUTANTS ?= 300
CHAPTERS := index.ipynb $(wildcard nbs/*.ipynb nbs/findings/*.ipynb nbs/findings/ru/*.ipynb)

.PHONY: help lab test test-hard fuzz coverage mutants survives audit bench report page test-page notebooks chapters readme \
	constraints clean

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

lab: .venv/installed
	$(BIN)/pneumoprune lab $(if $(DATA),--data "$(DATA)") --out "$(OUT)" $(ARGS)
	$(BIN)/pneumoprune report "$(OUT)"

# two at a time, one thread each: small networks lose more to waiting for each other than they gain
test: export OMP_NUM_THREADS = 1
# Linux clears memory in pages of 2 MB instead of 4 kB: AlexNet has 233 MB of weights
test: export GLIBC_TUNABLES = glibc.malloc.hugetlb=1
test: .venv/installed
	$(BIN)/python tests/warm.py $(PART)

test-hard: export OMP_NUM_THREADS = 1
test-hard: .venv/installed
	$(BIN)/pytest -m hard --dist worksteal
	PNEUMOPRUNE_EXAMPLES=1000 $(BIN)/pytest tests/test_compaction_properties.py

fuzz: .venv/installed
	$(BIN)/python -m pip install --quiet atheris==3.0.0 # for Linux and Python 3.11 to 3.13: hence no requirement of the package
	@mkdir -p .fuzz; for kind in image zip npz network onnx run; do \
		echo "$$kind"; $(BIN)/python tests/fuzz/fuzz.py $$kind .fuzz/$$kind -max_total_time=$(SECONDS) -runs=$(RUNS) -rss_limit_mb=3000 \
			-artifact_prefix=.fuzz/found-$$kind- -verbosity=0 -print_final_stats=1 >.fuzz/$$kind.log 2>&1 || { tail .fuzz/$$kind.log; exit 2; }; done
	$(BIN)/python tests/survives.py fuzz .fuzz

coverage: export OMP_NUM_THREADS = 1
coverage: .venv/installed
	$(BIN)/python -m pip install --quiet coverage==7.17.5
	rm -f .coverage*
	$(BIN)/coverage run tests/chapters.py
	$(BIN)/coverage run tests/warm.py
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered
	$(BIN)/python tests/survives.py coverage $$($(BIN)/coverage report --format=total --precision=1)

mutants: export OMP_NUM_THREADS = 1
mutants: .venv/installed
	$(BIN)/python -m pip install --quiet cosmic-ray==8.7.0 coverage==7.17.5
	$(BIN)/python tests/mutants.py --number $(MUTANTS) --jobs 2
	$(BIN)/python tests/survives.py mutants .mutants

# part by part: what is in .survives already is not run again, unless the folder is deleted
survives: export OMP_NUM_THREADS = 1
survives: .venv/installed
	@for part in killed power damaged room operation bad_inputs; do test -e .survives/$$part.xml || \
		$(BIN)/pytest -n 2 -m hard tests/test_reliability.py tests/test_bad_inputs.py -k $$part --junitxml=.survives/$$part.xml || exit 2; done
	$(BIN)/python tests/survives.py hard .survives/*.xml

audit: .venv/installed
	$(BIN)/python -m pip install --quiet pip-audit==2.10.1
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt --progress-spinner off

# one run of all parts starts a new file; PART="inference growth" measures some of them anew
bench: .venv/installed
	$(BIN)/python bench/bench.py $(PART) $(if $(DATA),--data "$(DATA)")

report: .venv/installed
	$(BIN)/pneumoprune report "$(RUN)" -o _report/pneumoprune-report.pdf --lang en --html
	$(BIN)/pneumoprune report "$(RUN)" -o _report/pneumoprune-report-ru.pdf --lang ru --html

# of ONNX Runtime Web, the two files that the page needs are copied out of what npm brings
page: .venv/installed page/node_modules/.package-lock.json
	$(BIN)/pneumoprune page $(if $(SOURCE),"$(SOURCE)") -o "$(PAGE)" --runtime page/node_modules/onnxruntime-web

test-page: export OMP_NUM_THREADS = 1
test-page: .venv/installed page/node_modules/.package-lock.json
	$(BIN)/python -m pip install --quiet playwright==1.65.2 # without its browsers: Chromium is the system's
	$(BIN)/pytest -n 0 -m hard tests/test_page.py tests/test_browser.py

page/node_modules/.package-lock.json: page/package.json page/package-lock.json
	cd page && npm ci
	touch $@

notebooks: .venv/installed
	$(BIN)/jupyter lab nbs

chapters: .venv/installed
	TQDM_DISABLE=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace $(CHAPTERS)
	$(BIN)/python report/strip_stderr.py $(CHAPTERS)
	$(BIN)/nbdev-clean
	$(BIN)/nbdev-clean --fname index.ipynb

readme: .venv/installed
	$(BIN)/python report/readme.py

# the marker is younger than the package metadata once everything is installed
.venv/installed: settings.ini setup.py pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv: about 6 GB with PyTorch, some minutes"
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	for command in export test clean prepare readme; do ln -sf nbdev-$$command $(BIN)/nbdev_$$command; done # as nbdev 2 calls them
	touch $@

# the versions everything was tested with, but for CUDA's, which PyTorch asks for itself
constraints: .venv/installed
	$(BIN)/python -m pip freeze --exclude-editable | grep -viE '^(nvidia|cuda|triton|pneumoprune)' > constraints.txt

clean:
	rm -rf .venv _report _page page/node_modules build dist *.egg-info
