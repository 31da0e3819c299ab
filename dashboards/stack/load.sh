#!/bin/sh
# Publishes a command a second through RabbitMQ's management API, as an order service would by AMQP. RABBITMQ is its address.
n=0
while :; do
  n=$((n + 1))
  account=ifortepay field=reason
  [ $((n % 3)) != 0 ] || account=bnc
  [ $((n % 50)) != 0 ] || field=reasn
  now=$(date +%s)
  command="{\\\"jobId\\\":\\\"load-$now-$n\\\",\\\"originalReferenceNo\\\":\\\"R$now$n\\\",\\\"originalPartnerReferenceNo\\\":\\\"P$now$n\\\",\\\"$field\\\":\\\"customer left\\\"}"
  message="{\"routing_key\":\"$account\",\"payload\":\"$command\",\"payload_encoding\":\"string\",\"properties\":{\"delivery_mode\":2,\"content_type\":\"application/json\",\"timestamp\":$now}}"
  wget -q -O /dev/null --post-data "$message" "$RABBITMQ/api/exchanges/%2f/qris.cancel.commands/publish" || echo "not published: $command"
  sleep 1
done
