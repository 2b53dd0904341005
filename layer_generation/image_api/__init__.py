"""The asynchronous image API: a server that takes requests for pictures and backends that draw them."""
