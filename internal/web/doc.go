// Package web shows what a shard does: health, readiness, status and metrics over
// HTTP. It asks the shard for a copy of its status at each request and keeps
// nothing. It is the only place that names metrics.
//
//	/healthz  200 while the process serves requests.
//	/readyz   200 while the shard is active and within the limits, or standby;
//	          503 else, with the reasons.
//	/status   the status as JSON, see Report.
//	/metrics  Prometheus; docs/metrics.md lists them.
//	/debug/pprof/  only when asked for.
package web
