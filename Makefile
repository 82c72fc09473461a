# The whole developer interface. `make demo` and `make test` make .venv themselves.
.PHONY: help demo test check bench soak fuzz mutate slow wheel tensorflow clients tools cluster images clean
PYTEST = .venv/bin/python -m pytest
# Where a shell forbids Python to keep what it compiled, each of the hundreds of programs that the tests start compiles all anew.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo 'make demo     train, encrypt, attest, predict: the whole way, on a simulated TEE (KEEP=1 leaves it running, without the attacks)'
	@echo 'make test     the tests'
	@echo 'make check    lint, types, layers, generated code'
	@echo 'make bench    speed and memory, as tables; writes docs/benchmarks.md'
	@echo 'make soak     mixed load with reloads, then many reloads, of the model server; SECONDS=600 RELOADS=200 for long'
	@echo 'make fuzz     hostile input for every reader, SECONDS=10 for each; a crash fails'
	@echo 'make mutate   is there a test for each check of evidence? An hour or two; writes docs/mutation.md (ARGS=--again: what is left)'
	@echo 'make slow     the tests that take longer: many kills, several hosts, other environments'
	@echo 'make clients  the clients that others wrote, against our server'
	@echo 'make tools    what Gramine and Prometheus themselves say of our files, where gramine-manifest and promtool are installed'
	@echo 'make images   the container images, with buildah; the same inputs give the same digests'
	@echo 'make cluster  the tests on Kubernetes: against KUBECONFIG, or on two nodes that it starts and stops (KEEP=1 leaves them)'
	@echo 'make wheel    build the wheel and try it in an environment of its own'

demo:
	@scripts/environment.sh demo
	@.venv/bin/python examples/digits/demo.py $(if $(KEEP),--keep)

test:
	@scripts/environment.sh test
	@$(PYTEST) -m 'not slow and not tensorflow and not clients and not cluster and not tools' -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0 $(ARGS)

slow:
	@scripts/environment.sh test
	@$(PYTEST) -m 'slow and not tensorflow and not clients and not cluster and not tools' $(ARGS)

check:
	@scripts/environment.sh test
	@scripts/check.sh

bench:
	@scripts/environment.sh test
	@.venv/bin/python benchmarks/run.py $(ARGS)

soak:
	@scripts/environment.sh test
	@.venv/bin/python benchmarks/soak.py --seconds $(or $(SECONDS),60) --reloads $(or $(RELOADS),10) $(ARGS)

fuzz:
	@scripts/environment.sh test
	@scripts/fuzz.sh $(or $(SECONDS),10) $(ARGS)

mutate:
	@scripts/environment.sh test
	@.venv/bin/python mutation/run.py --seconds $(or $(SECONDS),3600) $(ARGS)

wheel:
	@scripts/environment.sh test
	@scripts/wheel.sh

tensorflow:
	@scripts/environment.sh test
	@scripts/tensorflow.sh

clients:
	@scripts/environment.sh test
	@scripts/clients.sh

tools:
	@scripts/environment.sh test
	@$(PYTEST) -m tools $(ARGS)

images:
	@scripts/environment.sh test
	@.venv/bin/python deploy/images/build.py $(ARGS)

cluster:
	@scripts/environment.sh test
	@scripts/cluster-tests.sh $(ARGS)

clean:
	rm -rf .venv .venv-tensorflow .venv-clients .cache dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
