#!/usr/bin/env bash
# Runs the worker beside others on the same backlog and the same provider, as a comparing script wants it: with AMQP_URL,
# PROVIDER_URL, PREFETCH and, for asymmetric signatures, RSA_KEY_DER in its environment.
#
# usage: worker.sh setup | worker.sh LOG_LEVEL
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
worker=${WORKER:-$here/target/release/qris-cancel-worker}
settings=$(mktemp "${TMPDIR:-/tmp}/qris-side-by-side.XXXXXX")
key=${RSA_KEY_DER:-$here/tests/vectors/midtrans-public-sample-key.pem}
mode=symmetric
[ -z "${RSA_KEY_DER:-}" ] || mode=asymmetric
level=error
[ "$1" = setup ] || level=$1
cat >"$settings" <<END
[amqp]
url = { env = "AMQP_URL" }
prefix = "bench.cancel"
[http]
listen = "127.0.0.1:0"
[log]
level = "$level"
[accounts.bench]
profile = "ifortepay"
base_url = "${PROVIDER_URL:-http://127.0.0.1:18080}"
token_base_url = "${PROVIDER_URL:-http://127.0.0.1:18080}"
signing_mode = "$mode"
partner_id = "IFP2024067944"
client_key = "bench"
client_secret = { env = "BENCH_SECRET" }
private_key = { file = "$key" }
max_in_flight = ${PREFETCH:-256}
END
export BENCH_SECRET=secretsecret
if [ "$1" = setup ]; then
  "$worker" --config "$settings" topology declare
  rm "$settings"
else
  # The worker has read its settings long before.
  (sleep 10; rm -f "$settings") &
  exec "$worker" --config "$settings" run
fi
