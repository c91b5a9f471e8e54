#!/usr/bin/env bats
# setup_remote.sh with a lock of six packages. Stand-ins: conda, nvidia-smi, and the NF4 forward
# where the small lock has no torch; the real one runs in tests/setup/test_verify_environment.py.

load ../support/checkout

setup() {
  checkout
  NF4=scripts/setup/nf4_forward.py
  printf 'print("ok    NF4 forward  (stand-in)")\n' >"$NF4"
  cat >scripts/check_gpu.py <<'PYTHON'
import sys
if "--allow-cpu" not in sys.argv:
    print("FAIL  gpu  none\n      fix: to rehearse add --allow-cpu")
    sys.exit(1)
PYTHON
}

# last_line: what a failed run ended with.
last_line() { printf '%s\n' "${lines[${#lines[@]} - 1]}"; }

# stand_in_conda NAME: records its arguments and makes an environment with venv.
stand_in_conda() {
  mkdir -p bin
  cat >"bin/$1" <<'SH'
#!/usr/bin/env bash
[ "$1" = --version ] && { echo "$(basename "$0") 24.11.0"; exit 0; }
[ "$2" = --help ] && { echo "  --no-default-packages"; exit 0; }
printf '%s\n' "$(basename "$0") $*" >>"${BASH_SOURCE[0]%/*}/calls"
while [ $# -gt 0 ]; do [ "$1" = --prefix ] && prefix=$2; shift; done
[ ! -e "$prefix" ] || { echo "prefix already exists" >&2; exit 1; }
exec "$HELPER_PYTHON" -m venv --without-pip "$prefix"
SH
  chmod +x "bin/$1"
  HELPER_PYTHON=$("$ROOT/.venv-local/bin/python" -c 'import sys; print(sys._base_executable)')
  export HELPER_PYTHON
}

@test "bad options are refused with exit 2" {
  run ./setup_remote.sh --backend docker
  assert_failure 2
  assert_output "setup_remote.sh: --backend 'docker'; it is conda or venv"
  run ./setup_remote.sh --backend
  assert_failure 2
  run ./setup_remote.sh --alow-cpu
  assert_failure 2
  run ./setup_remote.sh gpu1 gpu2
  assert_failure 2
  assert_output --partial "two hosts, 'gpu1' and 'gpu2'"
}

@test "without a GPU it stops with exit 1 and names --allow-cpu" {
  cp "$ROOT/scripts/check_gpu.py" scripts/
  if command -v nvidia-smi >/dev/null; then skip "this machine has an NVIDIA driver"; fi
  run ./setup_remote.sh --here
  assert_failure 1
  assert_output --partial 'FAIL  gpu'
  assert_regex "$(last_line)" '^setup_remote.sh: gpu: nvidia-smi is not there.*add --allow-cpu$'
  [ -z "$(folders remote)" ]
}

# bats test_tags=slow
@test "--allow-cpu makes the environment, a second run touches nothing" {
  run ./setup_remote.sh --here --backend venv --allow-cpu
  assert_success
  assert_output --partial 'NF4 forward'
  works remote
  touch "$BATS_TEST_TMPDIR/before"
  run ./setup_remote.sh --here --allow-cpu
  assert_success
  assert_output --partial 'nothing to do'
  run find . -newer "$BATS_TEST_TMPDIR/before"
  assert_output ''
}

# bats test_tags=slow
@test "an environment made with --allow-cpu still asks for a GPU later, once" {
  ./setup_remote.sh --here --backend venv --allow-cpu
  run ./setup_remote.sh --here
  assert_failure 1
  assert_equal "$(last_line)" 'setup_remote.sh: gpu: none; to rehearse add --allow-cpu'
  printf 'print("ok    gpu  (stand-in)")\n' >scripts/check_gpu.py
  run ./setup_remote.sh --here
  assert_success
  refute_output --partial 'installing'
  run ./setup_remote.sh --here
  assert_output --partial 'nothing to do'
}

# bats test_tags=slow
@test "an NF4 forward that fails keeps the new environment from being published" {
  ./setup_remote.sh --here --backend venv --allow-cpu
  first=$(readlink .venv-remote)
  printf 'print("FAIL  NF4 forward  broken\\n      fix: x")\nraise SystemExit(1)\n' >"$NF4"
  run ./setup_remote.sh --here --allow-cpu --force
  assert_failure 1
  assert_equal "$(last_line)" 'setup_remote.sh: NF4 forward: broken; x'
  [ "$(readlink .venv-remote)" = "$first" ]
  [ "$(folders remote)" = "$first" ]
}

# bats test_tags=slow
@test "--check reports damage and the next run mends it" {
  ./setup_remote.sh --here --backend venv --allow-cpu
  printf '#\n' >>"$(printf '%s' .venv-remote/lib/python3*/site-packages/idna/core.py)"
  run ./setup_remote.sh --here --allow-cpu --check
  assert_failure 1
  assert_output --partial 'idna/core.py: damaged'
  ./setup_remote.sh --here --allow-cpu
  run ./setup_remote.sh --here --allow-cpu --check
  assert_success
}

# bats test_tags=slow
@test "conda, mamba or micromamba makes the Python where there is one, uv fills it from the lock" {
  for name in micromamba mamba conda; do
    stand_in_conda "$name" # each is found before the ones already there
    PATH=$PWD/bin:$PATH run ./setup_remote.sh --here --backend conda --allow-cpu --force
    assert_success
    works remote
    run tail -n 1 bin/calls
    quiet='' && case $name in conda) quiet='--quiet ' ;; esac # mamba's hides its errors
    assert_output --regexp "^$name create --yes --no-default-packages $quiet--prefix $PWD/.envs/remote-[0-9a-f]{12}x? --override-channels --channel conda-forge python=3.10 pip\$"
  done
}

# bats test_tags=slow
@test "CONDA_EXE comes first, and what stands keeps its back end" {
  stand_in_conda conda
  CONDA_EXE=$PWD/bin/conda ./setup_remote.sh --here --allow-cpu
  [ "$(wc -l <bin/calls)" -eq 1 ]
  run ./setup_remote.sh --here --allow-cpu
  assert_output --partial '(conda), nothing to do'
  run ./setup_remote.sh --here --allow-cpu --backend venv
  assert_success
  assert_output --partial 'Packages (venv)'
}

# bats test_tags=slow
@test "a conda that fails leaves what stood, and names --backend venv" {
  ./setup_remote.sh --here --backend venv --allow-cpu
  first=$(readlink .venv-remote)
  mkdir bin
  printf '#!/bin/sh\n[ "$1" = --version ] && exit 0\nexit 1\n' >bin/conda
  chmod +x bin/conda
  CONDA_EXE=$PWD/bin/conda run ./setup_remote.sh --here --backend conda --allow-cpu
  assert_failure 1
  assert_output --partial '--backend venv needs no conda'
  [ "$(readlink .venv-remote)" = "$first" ]
  works remote
}

@test "--backend conda without any conda is refused" {
  if command -v conda mamba micromamba >/dev/null || [ -x /opt/conda/bin/conda ]; then
    skip "there is a conda here"
  fi
  HOME=$BATS_TEST_TMPDIR run ./setup_remote.sh --here --backend conda --allow-cpu
  assert_failure 1
  assert_output --partial 'no conda, mamba or micromamba found'
}

@test "environment-remote.yml installs the lock by its hashes" {
  run cat environment-remote.yml
  assert_output --partial '- python=3.10'
  assert_output --partial '"--require-hashes"'
  assert_output --partial '"-r requirements-remote.txt"'
}

# bats test_tags=slow
@test "a folder that stands in for a host is set up from here" {
  mkdir host
  run ./setup_remote.sh ./host --allow-cpu --backend venv
  assert_success
  (cd host/tandem && works remote)
  [ ! -e .venv-remote ]
  run ./setup_remote.sh ./host --allow-cpu --check
  assert_success
  printf 'print("FAIL  NF4 forward  broken\\n      fix: x")\nraise SystemExit(1)\n' >"$NF4"
  run ./setup_remote.sh ./host --allow-cpu --force --backend venv
  assert_failure 1
  assert_output --partial 'NF4 forward: broken; x'
}

# bats test_tags=slow
@test "--check of a host without the kit says how it gets there" {
  mkdir host
  run ./setup_remote.sh ./host --check
  assert_failure 1
  assert_output --partial 'the kit is not there; ./setup_remote.sh HOST pushes it'
}

# bats test_tags=slow
@test "a host over ssh is set up, and its exit code comes back" {
  reason=$("$ROOT/tests/sshd.sh" available) || skip "$reason"
  server=$BATS_TEST_TMPDIR/sshd
  "$ROOT/tests/sshd.sh" start "$server" --alias gpu-test
  export TANDEM_SSH_CONFIG=$server/ssh_config
  # what the far side needs of this test: the small lock, uv and its cache
  printf 'export TANDEM_LOCK=%s UV=%s UV_CACHE_DIR=%s\n' "$TANDEM_LOCK" "${UV:-}" "$UV_CACHE_DIR" \
    >"$server/env"
  run ./setup_remote.sh gpu-test --allow-cpu --backend venv
  first=$status
  printf '%s\n' "$output"
  # shellcheck disable=SC2030
  run ./setup_remote.sh gpu-test
  "$ROOT/tests/sshd.sh" stop "$server"
  [ "$first" = 0 ]
  assert_failure 1 # no --allow-cpu
  assert_output --partial 'gpu: none; to rehearse add --allow-cpu'
  (cd "$server/home/tandem" && works remote)
}

# bats test_tags=slow
@test "HOST that is no name and no folder changes nothing" {
  for name in 'a b' 'x;y' '$(touch hit)' '-oProxyCommand=x' $'a\nb'; do
    HOST=$name run ./setup_remote.sh
    assert_failure 2
  done
  [ ! -e hit ] && [ ! -e .envs ]
}

# bats test_tags=slow
@test "the configured host is used, except on a machine with an NVIDIA driver" {
  sed 's|"host": ""|"host": "a b"|' configs/paths_config.json >c && mv c configs/paths_config.json
  run ./setup_remote.sh --allow-cpu
  assert_failure 2
  mkdir bin && printf '#!/bin/sh\n' >bin/nvidia-smi && chmod +x bin/nvidia-smi
  PATH=$PWD/bin:$PATH run ./setup_remote.sh --allow-cpu --backend venv
  assert_success
  assert_output --partial 'this machine has an NVIDIA driver: setting it up'
}

# bats test_tags=slow
@test "what conda's configuration adds to every environment is refused by name" {
  stand_in_conda conda
  sed 's/^exec \(.*\)$/\1\nsite=$(echo "$prefix"\/lib\/python3*\/site-packages)\nmkdir "$site\/ipdb-1.0.dist-info"/' \
    bin/conda >c && mv c bin/conda && chmod +x bin/conda
  CONDA_EXE=$PWD/bin/conda run ./setup_remote.sh --here --backend conda --allow-cpu
  assert_failure 1
  assert_regex "$(last_line)" '^setup_remote.sh: lock: ipdb installed, and not in the lock; .*--backend venv'
  [ -z "$(folders remote)" ]
}

@test "mamba's reason for a failure is shown" {
  stand_in_conda mamba
  printf '#!/bin/sh\ncase "$*" in *--version) echo 2.0.5 ;; *--help) ;; *--quiet*) exit 1 ;;\n%s\nesac\n' \
    '*) echo "critical libmamba: no such host" >&2; exit 1 ;;' >bin/mamba
  CONDA_EXE=$PWD/bin/mamba run ./setup_remote.sh --here --backend conda --allow-cpu
  assert_failure 1
  assert_output --partial 'critical libmamba: no such host'
  assert_regex "$(last_line)" 'made no environment, see its lines above; --backend venv needs no conda$'
}

# bats test_tags=slow
@test "Ctrl-C while mamba links ends with 130 and leaves no half-made folder" {
  mkdir bin
  cat >bin/mamba <<'SH'
#!/usr/bin/env bash
case "$*" in *--version) echo 2.0.5; exit ;; *--help) exit ;; esac
while [ "$1" != --prefix ]; do shift; done
mkdir -p "$2/conda-meta"
trap '' TERM INT # it links on, and so does what it started
(while :; do mkdir -p "$2/pkgs"; : >"$2/pkgs/$RANDOM"; done) &
wait
SH
  chmod +x bin/mamba
  CONDA_EXE=$PWD/bin/mamba start "$BATS_TEST_TMPDIR/log" \
    ./setup_remote.sh --here --backend conda --allow-cpu
  within 60 linking
  kill -INT -- "-$PID"
  code=0 && wait "$PID" || code=$?
  [ "$code" = 130 ]
  [ -z "$(folders remote)" ]
  run tail -n 1 "$BATS_TEST_TMPDIR/log"
  assert_output --partial 'interrupted (INT) at: Packages (conda)'
}

linking() { [ -d "$(folders remote | head -n 1)/pkgs" ]; }

# bats test_tags=slow
@test "after --allow-cpu the next command that is printed has it too" {
  run ./setup_remote.sh --here --backend venv --allow-cpu
  assert_success
  assert_output --partial 'next: make validate ARGS="--env remote --allow-cpu"'
}

# bats test_tags=slow
@test "the final check is asked for the GPU, unless --allow-cpu" {
  printf 'print("ok    gpu  (stand-in)")\n' >scripts/check_gpu.py
  printf 'import sys\nprint("FAIL  NF4 forward  on the CPU\\n      fix: x") if "--gpu" in sys.argv else 0\n' >"$NF4"
  printf 'sys.exit("--gpu" in sys.argv)\n' >>"$NF4"
  run ./setup_remote.sh --here --backend venv
  assert_failure 1
  assert_equal "$(last_line)" 'setup_remote.sh: NF4 forward: on the CPU; x'
  run ./setup_remote.sh --here --backend venv --allow-cpu
  assert_success
}

# bats test_tags=slow
@test "HOST that a shell or conda has set sends the set-up nowhere" {
  for name in "$(uname -n)" x86_64-conda-linux-gnu; do
    HOST=$name run ./setup_remote.sh --backend venv --check --allow-cpu
    assert_failure 1
    assert_output --partial "the variable HOST=$name is not used"
    assert_output --partial 'FAIL  packages  not set up'
  done
}
