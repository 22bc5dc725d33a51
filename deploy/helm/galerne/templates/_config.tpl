{{/* galerne.yaml: the settings of `galerne serve`, and of the Serve application with KubeRay. */}}

{{- define "galerne.modelRoot" -}}/models/checkpoint{{- end -}}

{{- define "galerne.config" -}}
{{- $v := .Values -}}
{{- $c := dict "mode" $v.mode "replicas" $v.expertCopies "drain_s" $v.drain.deadlineSeconds -}}
{{- $_ := set $c "start_timeout_s" $v.startTimeoutSeconds -}}
{{- $_ = set $c "kv_memory" $v.gateways.kvMemory -}}
{{- if ne $v.model.source "embedded" -}}
{{- $_ = set $c "model" (clean (printf "%s/%s" (include "galerne.modelRoot" .) $v.model.path)) -}}
{{- end -}}
{{- if include "galerne.hasGpus" . -}}
{{- $_ = set $c "device" (include "galerne.device" .) -}}
{{- $_ = set $c "shard_device" (include "galerne.shardDevice" .) -}}
{{- end -}}
{{- with $v.model.name }}{{ $_ = set $c "served_model_name" . }}{{ end -}}
{{- with $v.objectives.ttftP95Seconds }}{{ $_ = set $c "ttft_p95_s" . }}{{ end -}}
{{- with $v.objectives.interTokenP95Seconds }}{{ $_ = set $c "inter_token_p95_s" . }}{{ end -}}
{{- if eq $v.mode "auto" -}}
{{- with $v.autoscaling.maxNodes }}{{ $_ = set $c "max_nodes" . }}{{ end -}}
{{- with $v.autoscaling.idleToZeroSeconds }}{{ $_ = set $c "idle_to_zero_s" . }}{{ end -}}
{{- with include "galerne.nodes" . | fromYamlArray }}{{ $_ = set $c "nodes" . }}{{ end -}}
{{- else -}}
{{- $_ = set $c "transport" $v.transport -}}
{{- $_ = set $c "gateways" (include "galerne.gatewayProcesses" . | int) -}}
{{- with include "galerne.shardProcesses" . }}{{ $_ = set $c "shards" (int .) }}{{ end -}}
{{- end -}}
{{- if and (eq $v.internalTls.mode "off") (gt (int (include "galerne.mostWorkers" .)) 0) -}}
{{- $_ = set $c "insecure_network" true -}}
{{- else if ne $v.internalTls.mode "off" -}}
{{- $_ = set $c "internal_tls" (dict "cert" "/etc/galerne/internal-tls/tls.crt" "key" "/etc/galerne/internal-tls/tls.key" "ca" "/etc/galerne/internal-tls/ca.crt") -}}
{{- end -}}
{{- if gt (int (include "galerne.workers" .)) 0 }}{{ $_ = set $c "await_nodes" (include "galerne.startNodes" . | int) }}{{ end -}}
{{- if $v.auth.apiKeysSecret }}{{ $_ = set $c "api_keys_file" "/etc/galerne/api-keys" }}{{ end -}}
{{- if $v.auth.adminKeysSecret }}{{ $_ = set $c "admin_keys_file" "/etc/galerne/admin-keys" }}{{ end -}}
{{- if eq $v.deployment "plain" }}{{ $c = merge $c (include "galerne.plainConfig" . | fromYaml) }}{{ end -}}
{{- toYaml (merge $c $v.config) -}}
{{- end -}}

{{/* What `galerne serve` opens itself, and KubeRay elsewhere */}}
{{- define "galerne.plainConfig" -}}
{{- $v := .Values -}}
host: {{ $v.service.host | quote }}
http_port: {{ $v.service.httpPort }}
grpc_port: {{ $v.service.grpcPort }}
{{- if $v.ray.dashboard }}
dashboard_port: 8265
{{- end }}
{{- if eq $v.gcsFaultTolerance.backend "none" }}
ray_storage: "off"
{{- else if $v.gcsFaultTolerance.rocksdb.claimName }}
ray_storage: /var/lib/galerne/ray
{{- end }}
{{- if ne $v.tls.mode "off" }}
tls:
  cert: /etc/galerne/tls/tls.crt
  key: /etc/galerne/tls/tls.key
  {{- if $v.tls.clientCaSecret }}
  client_ca: /etc/galerne/client-ca/ca.crt
  {{- end }}
{{- end }}
{{- if include "galerne.isOpen" . }}
ray_head:
  port: {{ $v.ray.gcsPort }}
  num_cpus: {{ include "galerne.headCpus" . }}
  num_gpus: {{ .Values.head.gpu.count }}
  {{- with include "galerne.role" (list . "head") }}
  role: {{ . }}
  {{- end }}
  metrics_port: {{ $v.ray.metricsPort }}
{{- end }}
{{- end -}}

{{/* Machines that mode auto may ask KubeRay for */}}
{{- define "galerne.nodes" -}}
{{- if include "galerne.autoscales" . -}}
{{- range $name, $component := dict "gateways" "gateway" "shards" "shard" -}}
{{- $group := get $.Values $name -}}
{{- $most := int (include "galerne.maxReplicas" $group) -}}
{{- if gt $most 0 }}
- role: {{ include "galerne.role" (list $ $component) | default "any" }}
  most: {{ $most }}
  cores: {{ $group.cores }}
  gpus: {{ $group.gpu.count }}
  {{/* Nine tenths: Ray and its agents take the rest. */ -}}
  memory_bytes: {{ printf "%.0f" (mulf 0.9 (include "galerne.bytes" $group.memory | float64)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
