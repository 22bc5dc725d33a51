{{/* Where parts compute, and whether their pods have the GPUs for it. Each takes the root. */}}

{{/* Name of the values of the pods that hold gateways */}}
{{- define "galerne.gatewayHome" -}}
{{- ternary "gateways" "head" (gt (int (include "galerne.maxReplicas" .Values.gateways)) 0) -}}
{{- end -}}

{{- define "galerne.hasGpus" -}}{{/* any pod */}}
{{- if gt (add .Values.head.gpu.count .Values.gateways.gpu.count .Values.shards.gpu.count) 0 }}true{{ end -}}
{{- end -}}

{{- define "galerne.shardsApart" -}}{{/* in pods of their own */}}
{{- if gt (int (include "galerne.maxReplicas" .Values.shards)) 0 }}true{{ end -}}
{{- end -}}

{{/* cpu or cuda: as config says, or as the pods have GPUs */}}
{{- define "galerne.device" -}}
{{- $home := get .Values (include "galerne.gatewayHome" .) -}}
{{- .Values.config.device | default (ternary "cuda" "cpu" (gt (int $home.gpu.count) 0)) -}}
{{- end -}}

{{- define "galerne.shardDevice" -}}
{{- $isCuda := eq .Values.transport "nccl" -}}
{{- if include "galerne.shardsApart" . }}{{ $isCuda = or $isCuda (gt (int .Values.shards.gpu.count) 0) }}{{ end -}}
{{- .Values.config.shard_device | default (ternary "cuda" "cpu" $isCuda) -}}
{{- end -}}

{{- define "galerne.sharesGpus" -}}{{/* shards take GPUs of the gateways' pods */}}
{{- if and (eq (include "galerne.shardDevice" .) "cuda") (not (include "galerne.shardsApart" .)) }}true{{ end -}}
{{- end -}}

{{/* Values of devices that contradict one another, or the pods */}}
{{- define "galerne.gpuChecks" -}}
{{- $v := .Values -}}
{{- $home := include "galerne.gatewayHome" . -}}
{{- $count := int (get $v $home).gpu.count -}}
{{- $device := include "galerne.device" . -}}
{{- $shardDevice := include "galerne.shardDevice" . -}}
{{- $isApart := eq (include "galerne.shardsApart" .) "true" -}}
{{- if and (eq $home "gateways") $v.head.gpu.count -}}
{{- fail "head.gpu.count: the head computes nothing where gateways have pods of their own; set gateways.gpu.count" -}}
{{- else if and (eq $home "head") $v.gateways.gpu.count -}}
{{- fail "gateways.gpu.count: gateways live in the head's pod (gateways.replicas=0); set head.gpu.count" -}}
{{- else if and $v.shards.gpu.count (not $isApart) -}}
{{- fail (printf "shards.gpu.count: shards live beside the gateways (shards.replicas=0); set %s.gpu.count, and config.shard_device=cuda" $home) -}}
{{- else if and (eq $device "cuda") (not $count) -}}
{{- fail (printf "config.device: cuda needs GPUs in the pods that hold gateways; set %s.gpu.count" $home) -}}
{{- else if and (eq $device "cpu") $count -}}
{{- fail (printf "%s.gpu.count: config.device=cpu would leave GPUs idle; set it to 0" $home) -}}
{{- else if and $isApart (eq $shardDevice "cpu") $v.shards.gpu.count -}}
{{- fail "shards.gpu.count: config.shard_device=cpu would leave GPUs idle; set it to 0" -}}
{{- else if and (eq $v.transport "nccl") (or (eq $device "cpu") (eq $shardDevice "cpu")) -}}
{{- fail (printf "transport: nccl goes from GPU to GPU, gateways are on %s and shards on %s; set %s.gpu.count%s" $device $shardDevice $home (ternary " and shards.gpu.count" "" $isApart)) -}}
{{- else if and (eq $shardDevice "cuda") (eq $device "cpu") -}}
{{- fail (printf "%s: shards on GPUs need gateways on GPUs; set %s.gpu.count" (ternary "shards.gpu.count" "config.shard_device" (gt (int $v.shards.gpu.count) 0)) $home) -}}
{{- else if and $isApart (eq $shardDevice "cuda") (not $v.shards.gpu.count) -}}
{{- fail (printf "%s: needs GPUs in the shards' pods; set shards.gpu.count" (ternary "transport: nccl" "config.shard_device: cuda" (eq $v.transport "nccl"))) -}}
{{- end -}}
{{- if eq $v.mode "auto" -}}
{{- if and (eq $device "cuda") (eq $home "gateways") (not $v.config.calibration) -}}
{{- fail "config.calibration: mode auto cannot measure GPUs from the head's pod, which has none; name a file that galerne doctor --device cuda wrote on such a node (extraVolumes)" -}}
{{- end -}}
{{- else -}}
{{- include "galerne.gpuNumbers" . -}}
{{- end -}}
{{- end -}}

{{/* Every gateway and shard on GPUs takes one */}}
{{- define "galerne.gpuNumbers" -}}
{{- $v := .Values -}}
{{- $home := include "galerne.gatewayHome" . -}}
{{- $isShared := eq (include "galerne.sharesGpus" .) "true" -}}
{{- $shards := include "galerne.shardProcesses" . -}}
{{- if and $isShared (ne $v.transport "local") (not $shards) -}}
{{- fail "shards.processes: must be said with shards on GPUs beside the gateways: each takes a GPU" -}}
{{- end -}}
{{- $gateways := int (include "galerne.gatewayProcesses" .) -}}
{{- if eq (include "galerne.device" .) "cuda" -}}
{{- $has := int (mul (max 1 $v.gateways.replicas) (get $v $home).gpu.count) -}}
{{- $beside := ternary (int $shards) 0 (and $isShared (ne $v.transport "local")) -}}
{{- if lt $has (add $gateways $beside | int) -}}
{{- fail (printf "%s.gpu.count: %d gateways and %d shards need a GPU each, their pods have %d" $home $gateways $beside $has) -}}
{{- end -}}
{{- end -}}
{{- if and (eq (include "galerne.shardDevice" .) "cuda") (not $isShared) -}}
{{- $has := int (mul $v.shards.replicas $v.shards.gpu.count) -}}
{{- if lt $has (int $shards) -}}
{{- fail (printf "shards.gpu.count: %d shards need a GPU each, their pods have %d" (int $shards) $has) -}}
{{- end -}}
{{- end -}}
{{- end -}}
