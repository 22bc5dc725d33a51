{{/* Names, labels and numbers that several templates need. Each takes the root, unless it says. */}}

{{- define "galerne.fullname" -}}
{{- $name := .Values.fullnameOverride -}}
{{- if not $name -}}
{{- $name = ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) -}}
{{- end -}}
{{- $name | trunc 40 | trimSuffix "-" -}}{{/* what is appended must fit in 63 */}}
{{- end -}}

{{/* list root component; component "" selects all pods of the release */}}
{{- define "galerne.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- with index . 1 }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* list root component */}}
{{- define "galerne.labels" -}}
{{- $root := index . 0 -}}
{{ include "galerne.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{- define "galerne.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}
{{- else -}}{{ .repository }}:{{ .tag | default (printf "%s%s" $.Chart.AppVersion (ternary "-cuda" "" (eq (include "galerne.hasGpus" $) "true"))) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "galerne.serviceAccount" -}}
{{- with .Values.serviceAccount -}}
{{- .name | default (ternary (include "galerne.fullname" $) "default" .create) -}}
{{- end -}}
{{- end -}}

{{- define "galerne.headService" -}}{{ include "galerne.fullname" . }}-head{{- end -}}

{{- define "galerne.tokenSecret" -}}
{{- .Values.ray.tokenSecret | default (printf "%s-ray-token" (include "galerne.fullname" .)) -}}
{{- end -}}

{{- define "galerne.tlsSecret" -}}
{{- .Values.tls.secretName | default (printf "%s-tls" (include "galerne.fullname" .)) -}}
{{- end -}}

{{- define "galerne.internalTlsSecret" -}}
{{- .Values.internalTls.secretName | default (printf "%s-internal-tls" (include "galerne.fullname" .)) -}}
{{- end -}}

{{/* Bytes of a quantity such as 4Gi or 500M, or a number */}}
{{- define "galerne.bytes" -}}
{{- if kindIs "string" . -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- $unit := get $units (trimPrefix $number .) -}}
{{- printf "%.0f" (mulf ($number | float64) ($unit | float64)) -}}
{{- else -}}
{{- printf "%.0f" (float64 .) -}}
{{- end -}}
{{- end -}}

{{/* Pods of gateways and shards, without the head's: at the start, and at most */}}
{{- define "galerne.workers" -}}
{{- add .Values.gateways.replicas .Values.shards.replicas -}}
{{- end -}}
{{- define "galerne.mostWorkers" -}}
{{- add (include "galerne.maxReplicas" .Values.gateways) (include "galerne.maxReplicas" .Values.shards) -}}
{{- end -}}

{{/* Of gateways or shards */}}
{{- define "galerne.minReplicas" -}}{{ ternary .replicas .minReplicas (kindIs "invalid" .minReplicas) }}{{- end -}}
{{- define "galerne.maxReplicas" -}}{{ ternary .replicas .maxReplicas (kindIs "invalid" .maxReplicas) }}{{- end -}}

{{/* Shard processes: as told, or one on every core of their pods, or GPU, but none without an expert
     (the family's models have 128); empty: the mode decides */}}
{{- define "galerne.shardProcesses" -}}
{{- $each := ternary .Values.shards.gpu.count .Values.shards.cores (eq (include "galerne.shardDevice" .) "cuda") -}}
{{- with .Values.shards -}}
{{- if not (kindIs "invalid" .processes) -}}{{ .processes }}
{{- else if .replicas -}}{{ min 128 (mul .replicas $each) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Gateway processes: as told, or one a pod, or one on every GPU that no shard needs */}}
{{- define "galerne.gatewayProcesses" -}}
{{- $home := get .Values (include "galerne.gatewayHome" .) -}}
{{- $each := ternary (max 1 $home.gpu.count) 1 (and (eq (include "galerne.device" .) "cuda") (not (include "galerne.sharesGpus" .))) -}}
{{- ternary (mul (max 1 .Values.gateways.replicas) $each) .Values.gateways.processes (kindIs "invalid" .Values.gateways.processes) -}}
{{- end -}}

{{/* list root component: the label galerne.io/role of its Ray nodes; empty: both */}}
{{- define "galerne.role" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- if eq $component "shard" -}}shard
{{- else if gt (int (include "galerne.maxReplicas" $root.Values.shards)) 0 -}}
{{- if or (eq $component "gateway") (eq (int (include "galerne.maxReplicas" $root.Values.gateways)) 0) -}}gateway{{- end -}}
{{- end -}}
{{- end -}}

{{/* Cores of the head that parts may be placed on */}}
{{- define "galerne.headCpus" -}}
{{- ternary .Values.head.cores 0 (eq (int (include "galerne.maxReplicas" .Values.gateways)) 0) -}}
{{- end -}}

{{/* Nodes with room for parts at the start */}}
{{- define "galerne.startNodes" -}}
{{- add (include "galerne.workers" .) (ternary 1 0 (gt (int (include "galerne.headCpus" .)) 0)) -}}
{{- end -}}

{{- define "galerne.graceSeconds" -}}
{{- add .Values.drain.deadlineSeconds .Values.drain.marginSeconds -}}
{{- end -}}

{{- define "galerne.isOpen" -}}{{/* the head's Ray takes nodes of other pods */}}
{{- if and (eq .Values.deployment "plain") (gt (int (include "galerne.workers" .)) 0) }}true{{ end -}}
{{- end -}}

{{- define "galerne.autoscales" -}}{{/* by KubeRay */}}
{{- if and (eq .Values.deployment "rayservice") (eq .Values.mode "auto") }}true{{ end -}}
{{- end -}}
