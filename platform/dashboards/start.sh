#!/bin/bash
# Prometheus and Grafana with Starloom's dashboards, on this machine alone, until Ctrl-C: http://127.0.0.1:3000
#   platform/dashboards/start.sh [FOLDER]     FOLDER keeps what they gather (default: .monitoring here)
# Needs prometheus (Debian has it) and, for the pictures, grafana-server; without Grafana, Prometheus' own page is at :9090.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kept=${1:-.monitoring}
command -v prometheus > /dev/null || { echo "start.sh: there is no prometheus; apt install prometheus" >&2; exit 2; }
mkdir -p "$kept"
trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT

prometheus --config.file="$here/prometheus.yml" --storage.tsdb.path="$kept/prometheus" \
    --web.listen-address="${STARLOOM_PROMETHEUS:-127.0.0.1:9090}" --log.level=warn &
if command -v grafana-server > /dev/null; then
    home=$(dirname "$(dirname "$(readlink -f "$(command -v grafana-server)")")")
    [ -d "$home/public" ] || home=/usr/share/grafana
    STARLOOM_DASHBOARDS="$here" GF_PATHS_PROVISIONING="$here/provisioning" GF_PATHS_DATA="$kept/grafana" \
        GF_SERVER_HTTP_ADDR=127.0.0.1 GF_AUTH_ANONYMOUS_ENABLED=true GF_ANALYTICS_REPORTING_ENABLED=false \
        GF_ANALYTICS_CHECK_FOR_UPDATES=false grafana-server --homepath "$home" &
    echo "Grafana: http://127.0.0.1:3000, Prometheus: http://${STARLOOM_PROMETHEUS:-127.0.0.1:9090}"
else
    echo "no grafana-server here; Prometheus: http://${STARLOOM_PROMETHEUS:-127.0.0.1:9090}"
fi
wait -n
