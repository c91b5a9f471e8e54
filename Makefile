# Tandem's menu: one line a target; the work is in scripts/. `make` alone lists the targets.
# HOST=gpu1 (ssh) or HOST=./folder   REMOTE_DIR=dir   RAW=path   DRY_RUN=1   CONFIRM=1   ARGS="--any --flags"
SHELL := /bin/bash
.DEFAULT_GOAL := help
export HOST RAW DRY_RUN CHECKPOINT REMOTE_DIR BUCKET
RUN := scripts/kit/run.sh
CONFIRMED = $(filter-out 0 no No NO n false False off,$(CONFIRM))
YES = $(if $(CONFIRMED),--confirm)
JOB = $(RUN) either jobs.py
JOB_OPTIONS = $(if $(HOSTS),--hosts "$(HOSTS)") $(if $(ENGINE),--engine "$(ENGINE)") $(if $(NODES),--nodes "$(NODES)") $(if $(GPUS),--gpus "$(GPUS)")
JOB_OPTIONS += $(if $(BUDGET),--budget "$(BUDGET)") $(if $(RATE),--rate "$(RATE)") $(if $(PARTITION),--partition "$(PARTITION)")
NAME ?= train
.PHONY: help job-run watch stop resume keep jobs costs setup-local setup-remote setup-serve lock validate storage gpu verify-model sync-up sync-down drill-sync data ingest adapters train eval rlhf serve panel notebook pipeline rehearse prove-gpu embeddings drill-embeddings test test-fast lint bench

help: ## list the targets
	@awk -F ':.*## ' '/^# ---/ {print "\n" substr($$0, 7)} /^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' Makefile

# --- environments
setup-local: ## .venv-local: Python for data work on this machine
	@./setup_local.sh $(ARGS)
setup-remote: ## .venv-remote: the training environment, here or on HOST
	@./setup_remote.sh $(ARGS)
setup-serve: ## .venv-serve: vLLM for make serve ENGINE=vllm, here or on HOST
	@./setup_remote.sh --serve $(ARGS)
lock: ## resolve configs/requirements-*.in into the three hashed locks
	@scripts/lock_environments.sh $(ARGS)

# --- checks
validate: ## every check of this machine in half a second (ARGS=--deep imports everything)
	@$(RUN) any validate_environment.py $(ARGS)
storage: ## room on every disk that matters
	@$(RUN) any check_storage.py $(ARGS)
gpu: ## driver, CUDA, memory, bf16
	@$(RUN) any check_gpu.py $(ARGS)
verify-model: ## the base model's files (ARGS=--hash reads every byte)
	@$(RUN) any verify_model.py $(ARGS)

# --- transfer
sync-up: ## kit, configs and data to HOST, or to BUCKET=s3:name/path (DRY_RUN=1 plans)
	@scripts/sync_to_remote.sh $(ARGS)
sync-down: ## adapters and reports from HOST or BUCKET (DRY_RUN=1 plans)
	@scripts/sync_from_remote.sh $(ARGS)
drill-sync: ## edits, kills and full disks at random moments of both, then every byte is looked for
	@$(RUN) local ../tests/transfer/drill_sync.py $(ARGS)

# --- jobs that outlive the laptop: HOST=gpu1 [NAME=train] [ENGINE=slurm NODES=2 GPUS=8] [BUDGET=15 RATE=1.9]
job-run: ## train on HOST (CONFIRM=1; without: time and price); submitted twice it is one run
	@$(JOB) run $(NAME) $(YES) $(JOB_OPTIONS) $(ARGS)
watch: ## follow a job; Ctrl-C only leaves it
	@$(JOB) watch $(NAME) $(ARGS)
stop: ## end a job with a checkpoint (ARGS=--now: at once)
	@$(JOB) stop $(NAME) $(ARGS)
resume: ## go on with a job's run, on its host or from what was kept on another
	@$(JOB) resume $(NAME) $(if $(BUDGET),--budget "$(BUDGET)") $(if $(RATE),--rate "$(RATE)") $(ARGS)
keep: ## fetch finished checkpoints while a job runs
	@$(JOB) keep $(NAME) $(ARGS)
jobs: ## every job on every known host: state, step, loss, ETA, cost
	@$(JOB) list $(ARGS)
costs: ## what each job took (ARGS=--json)
	@$(JOB) costs $(ARGS)

# --- the work, here; plans unless CONFIRM=1
data: ## RAW, or generated examples, to data/processed/train_sft.jsonl and val_sft.jsonl
	@$(RUN) either data_prep.py $(if $(RAW),--input "$$RAW") $(YES) $(ARGS)
ingest: ## documents in RAW to a Chroma collection
	@$(RUN) local ingest_documents.py $(if $(RAW),"$$RAW") $(ARGS)
train: ## a LoRA adapter from data/processed (CONFIRM=1 and dry_run: false; GPUS=all: one process a GPU)
	@$(RUN) $(if $(CONFIRMED),remote,either) lora_trainer.py $(if $(CONFIRMED),--confirm-run) $(if $(GPUS),--gpus "$(GPUS)") $(ARGS)
eval: ## base and adapter side by side: make eval ARGS="--model mapper-lora --dataset FILE"
	@$(RUN) remote eval.py $(ARGS)
rlhf: ## reward model and PPO, RLOO, GRPO or DPO (off unless rlhf.yaml says enabled: true)
	@$(RUN) remote training_manager.py --stage rlhf $(YES) $(ARGS)
adapters: ## the versions there are (ARGS="show mapper-lora@latest")
	@$(RUN) either checkpoint_manager.py $(or $(ARGS),list)
serve: ## an OpenAI-compatible API on loopback: make serve CHECKPOINT=mapper-lora@v1.0.0
	@$(RUN) remote model_server.py $(if $(CHECKPOINT),--checkpoint "$$CHECKPOINT") $(if $(ENGINE),--engine "$$ENGINE") $(ARGS)
panel: ## one page on loopback: runs, versions, a new run, base and adapter side by side
	@$(RUN) remote panel.py $(ARGS)
notebook: ## notebooks/tandem_colab.ipynb from its readable source (ARGS=--check compares)
	@$(RUN) any build_notebook.py $(ARGS)
embeddings: ## fetch embedding shards from the clusters and merge them
	@$(RUN) local sync_and_merge_embeddings.py $(ARGS)

# --- the whole trip
rehearse: ## all of it with a miniature: [RAW=path] [HOST=./folder|gpu1|login ENGINE=slurm]; FULL=1: ten steps at full size
	@$(RUN) any pipeline.py --rehearse $(if $(filter-out 0 no No NO n false False off,$(FULL)),--full $(if $(RATE),--rate "$(RATE)")) $(ARGS)
prove-gpu: ## this machine's GPU measured in eight minutes (ARGS=--dry-run: small, on the CPU)
	@$(RUN) remote prove_gpu.py $(ARGS)
pipeline: ## all of it with the configured model on HOST: data, sync, train, evaluate, register
	@$(RUN) any pipeline.py $(YES) $(ARGS)

# --- the kit itself
test: ## every test; installs what it needs, says what it skips
	@tests/run.sh $(ARGS)
test-fast: ## the fast tests: about a minute on two cores
	@tests/run.sh --fast $(ARGS)
lint: ## shellcheck, shfmt, ruff
	@tests/run.sh --lint $(ARGS)
bench: ## the ratios of docs/BENCHMARKS.md, side by side in one run
	@tests/bench/run.sh $(ARGS)
drill-embeddings: ## 100 kills at random moments of a merge
	@$(RUN) local ../tests/support/drill_embeddings.py $(ARGS)
