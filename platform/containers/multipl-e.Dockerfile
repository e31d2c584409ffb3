# The toolchains of MultiPL-E's languages beside Starloom. Built by its users, from the root of this repository:
#   docker build -f platform/containers/multipl-e.Dockerfile -t starloom-multipl-e .
#   docker run --rm --privileged starloom-multipl-e starloom evaluate --toolchains
# Programs run in namespaces of their own: the container must be allowed to make them (--privileged, or a seccomp profile
# that allows them and --security-opt systempaths=unconfined).
FROM debian:12

ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8
RUN apt-get update && apt-get install -y --no-install-recommends \
        python3 python3-venv python3-dev make git curl ca-certificates unzip xz-utils \
        gcc g++ libc6-dev libboost-dev libssl-dev gdc gnat golang-go golang-github-stretchr-testify-dev \
        default-jdk-headless scala clojure ghc ocaml-nox elixir racket mono-mcs \
        nodejs npm node-typescript rustc php-cli ruby ruby-test-unit perl libtest-deep-perl lua5.4 lua-unit r-base-core \
    && rm -rf /var/lib/apt/lists/*
RUN npm install --global js-md5

# languages that Debian does not have; versions are those of MultiPL-E's own containers or later
ARG JULIA=1.10.5
RUN curl -fsSL "https://julialang-s3.julialang.org/bin/linux/x64/${JULIA%.*}/julia-${JULIA}-linux-x86_64.tar.gz" \
        | tar -xz -C /opt && ln -s "/opt/julia-${JULIA}/bin/julia" /usr/local/bin/julia
ARG DART=3.5.3
RUN curl -fsSL -o /tmp/dart.zip \
        "https://storage.googleapis.com/dart-archive/channels/stable/release/${DART}/sdk/dartsdk-linux-x64-release.zip" \
    && unzip -q /tmp/dart.zip -d /opt && rm /tmp/dart.zip && ln -s /opt/dart-sdk/bin/dart /usr/local/bin/dart
ARG SWIFT=5.10.1
RUN apt-get update && apt-get install -y --no-install-recommends \
        binutils libcurl4-openssl-dev libedit-dev libncurses-dev libpython3-dev libsqlite3-dev libxml2-dev libz3-dev \
        libstdc++-12-dev pkg-config tzdata zlib1g-dev && rm -rf /var/lib/apt/lists/* \
    && curl -fsSL "https://download.swift.org/swift-${SWIFT}-release/debian12/swift-${SWIFT}-RELEASE/swift-${SWIFT}-RELEASE-debian12.tar.gz" \
        | tar -xz -C /opt && ln -s "/opt/swift-${SWIFT}-RELEASE-debian12/usr/bin/swiftc" /usr/local/bin/swiftc

WORKDIR /starloom
COPY . .
RUN make setup
ENV PATH=/starloom/.venv/bin:$PATH
CMD ["starloom", "evaluate", "--toolchains"]
