#!/usr/bin/env bats
# setup_remote.sh --serve: vLLM's environment by the same steps, with a lock of six packages.
# Stand-ins: the GPU check, and vllm_check.py, which needs the real vLLM.

load ../support/checkout

setup() {
  checkout
  printf 'import sys\nprint("ok    vllm  (stand-in)", *sys.argv[1:])\n' >scripts/setup/vllm_check.py
  cat >scripts/check_gpu.py <<'PYTHON'
import sys
if "--allow-cpu" not in sys.argv:
    print("FAIL  gpu  none\n      fix: to rehearse add --allow-cpu")
    sys.exit(1)
PYTHON
}

# stand_in_uname SYSTEM MACHINE: another machine.
stand_in_uname() {
  mkdir -p bin
  printf '#!/bin/sh\ncase "$*" in *m*) echo "%s %s" ;; *) echo %s ;; esac\n' "$1" "$2" "$1" >bin/uname
  chmod +x bin/uname
}

@test "another system is refused in one line, whatever --allow-cpu says" {
  for machine in 'Darwin arm64' 'Linux aarch64'; do
    # shellcheck disable=SC2086 # two words
    stand_in_uname $machine
    PATH=$PWD/bin:$PATH run ./setup_remote.sh --serve --here --allow-cpu
    assert_failure 1
    assert_output "setup_remote.sh: vLLM has wheels for Linux x86-64 alone, this is $machine; set it up on a GPU host, or serve here with make serve ENGINE=own"
  done
  [ ! -e .envs ]
}

@test "without a GPU it stops with exit 1 and names --allow-cpu" {
  [ "$(uname -sm)" = 'Linux x86_64' ] || skip "vLLM has no wheels for $(uname -sm)"
  run ./setup_remote.sh --serve --here
  assert_failure 1
  assert_equal "${lines[${#lines[@]} - 1]}" 'setup_remote.sh: gpu: none; to rehearse add --allow-cpu'
  [ -z "$(folders serve)" ]
}

@test "a lock that is not there is named with its folder" {
  [ "$(uname -sm)" = 'Linux x86_64' ] || skip "vLLM has no wheels for $(uname -sm)"
  unset TANDEM_LOCK
  rm configs/requirements-serve.txt
  run ./setup_remote.sh --serve --here
  assert_failure 2
  assert_output --partial 'restore it (git checkout -- configs/requirements-serve.txt)'
}

# bats test_tags=slow
@test "it makes .venv-serve beside the others, a second run changes nothing, damage is repaired" {
  [ "$(uname -sm)" = 'Linux x86_64' ] || skip "vLLM has no wheels for $(uname -sm)"
  run ./setup_remote.sh --serve --here --check
  assert_failure 1
  assert_output --partial 'fix: ./setup_remote.sh --serve'
  run ./setup_remote.sh --serve --here --backend venv --allow-cpu
  assert_success
  assert_output --partial 'ok    vllm  (stand-in)'
  assert_output --partial 'make serve ENGINE=vllm'
  works serve
  [ ! -e .venv-remote ]
  run ./setup_remote.sh --serve --here --allow-cpu
  assert_output --partial '.venv-serve  Python'
  assert_output --partial 'nothing to do'
  printf '#\n' >>"$(printf '%s' .venv-serve/lib/python3*/site-packages/idna/core.py)"
  run ./setup_remote.sh --serve --here --allow-cpu --check
  assert_failure 1
  assert_output --partial 'fix: ./setup_remote.sh --serve repairs it'
  ./setup_remote.sh --serve --here --allow-cpu
  works serve
}

# bats test_tags=slow
@test "vLLM's check is asked for the GPU, and one that fails publishes nothing" {
  [ "$(uname -sm)" = 'Linux x86_64' ] || skip "vLLM has no wheels for $(uname -sm)"
  printf 'print("ok    gpu  (stand-in)")\n' >scripts/check_gpu.py
  printf 'import sys\nprint("FAIL  options ", *sys.argv[1:])\nprint("      fix: x")\nsys.exit(1)\n' \
    >scripts/setup/vllm_check.py
  run ./setup_remote.sh --serve --here --backend venv
  assert_failure 1
  assert_equal "${lines[${#lines[@]} - 1]}" 'setup_remote.sh: options: --gpu; x'
  [ ! -e .venv-serve ]
}

# bats test_tags=slow
@test "a host gets --serve too" {
  mkdir away
  printf '#!/bin/sh\necho "there: $*"\n' >away/setup_remote.sh
  chmod +x away/setup_remote.sh
  mkdir -p away/tandem && mv away/setup_remote.sh away/tandem/
  HOST=./away run ./setup_remote.sh --serve --check
  assert_output --partial 'there: --here --serve --check'
}
