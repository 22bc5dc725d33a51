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

{{/* list root probe: looks until startTimeoutSeconds are over */}}
{{- define "galerne.startThreshold" -}}
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
{{- $ready = dict "exec" (dict "command" (list "galerne" "probe" "ready")) -}}
{{- $live = dict "exec" (dict "command" (list "galerne" "probe" "live")) -}}
{{- else if eq $how "grpc" -}}
{{- $ready = dict "grpc" (dict "port" $v.service.grpcPort "service" "galerne.v1.InferenceService") -}}
{{- end -}}
{{/* Started as soon as it can serve: shards and gateways are there. */ -}}
{{- include "galerne.probe" (list "startup" $p.startup $ready (include "galerne.startThreshold" (list . $p.startup) | int)) }}
{{- include "galerne.probe" (list "readiness" $p.readiness $ready 3) }}
{{- include "galerne.probe" (list "liveness" $p.liveness $live 3) }}
{{- end -}}

{{- define "galerne.workerProbes" -}}
{{- $p := .Values.probes.worker -}}
{{- $live := dict "exec" (dict "command" (list "galerne" "probe" "live")) -}}
{{- $ready := dict "exec" (dict "command" (list "galerne" "probe" "node")) -}}
{{- include "galerne.probe" (list "startup" $p.startup $live (include "galerne.startThreshold" (list . $p.startup) | int)) }}
{{- include "galerne.probe" (list "readiness" $p.readiness $ready 3) }}
{{- include "galerne.probe" (list "liveness" $p.liveness $live 3) }}
{{- end -}}
