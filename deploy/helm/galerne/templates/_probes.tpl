{{/* Probes. Fields of a probe come from values; here is what is asked. */}}

{{/* list kind probe handler default-threshold */}}
{{- define "galerne.probe" -}}
{{- $kind := index . 0 -}}{{- $probe := index . 1 -}}{{- $handler := index . 2 -}}{{- $threshold := index . 3 -}}
{{- if $probe.enabled -}}
{{ $kind }}Probe:
  {{- $fields := omit $probe "enabled" }}
  {{- if not (hasKey $fields "failureThreshold") }}{{ $_ := set $fields "failureThreshold" $threshold }}{{ end }}
  {{- toYaml (merge $fields $handler) | nindent 2 }}
{{ end -}}
{{- end -}}

{{/* list root probe: looks in startTimeoutSeconds */}}
{{- define "galerne.threshold" -}}
{{- $root := index . 0 -}}{{- $probe := index . 1 -}}
{{- add1 (div (int $root.Values.startTimeoutSeconds) (int ($probe.periodSeconds | default 10))) -}}
{{- end -}}

{{- define "galerne.headProbes" -}}
{{- $v := .Values -}}
{{- $p := $v.probes.head -}}
{{- $how := $v.probes.handler -}}
{{- if eq $how "auto" }}{{ $how = ternary "exec" "http" (ne $v.tls.clientCaSecret "") }}{{ end -}}
{{- $scheme := ternary "HTTP" "HTTPS" (eq $v.tls.mode "off") -}}
{{- $ready := dict "httpGet" (dict "path" "/ready" "port" "http" "scheme" $scheme) -}}
{{- $live := dict "httpGet" (dict "path" "/health" "port" "http" "scheme" $scheme) -}}
{{- if eq $how "exec" -}}
{{- $where := printf "--http=%s://127.0.0.1:%d" (lower $scheme) (int $v.service.httpPort) -}}
{{- $ready = dict "exec" (dict "command" (list "galerne" "probe" "ready" $where)) -}}
{{- $live = dict "exec" (dict "command" (list "galerne" "probe" "live" $where)) -}}
{{- else if eq $how "grpc" -}}
{{- $ready = dict "grpc" (dict "port" $v.service.grpcPort "service" "galerne.v1.InferenceService") -}}
{{- end -}}
{{- include "galerne.probe" (list "startup" $p.startup $ready (include "galerne.threshold" (list . $p.startup) | int)) }}
{{- include "galerne.probe" (list "readiness" $p.readiness $ready 3) }}
{{- include "galerne.probe" (list "liveness" $p.liveness $live 3) }}
{{- end -}}

{{- define "galerne.workerProbes" -}}
{{- $p := .Values.probes.worker -}}
{{- $node := dict "exec" (dict "command" (list "galerne" "probe" "node")) -}}
{{- range $kind := list "startup" "readiness" "liveness" -}}
{{- $probe := get $p $kind -}}
{{- include "galerne.probe" (list $kind $probe $node (include "galerne.threshold" (list $ $probe) | int)) }}
{{- end -}}
{{- end -}}
