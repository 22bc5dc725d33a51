{{/* What a schema cannot say: values that contradict one another. The first one ends the render. */}}
{{- define "galerne.checks" -}}
{{- $v := .Values -}}
{{- $source := $v.model.source -}}
{{- if and (eq $source "pvc") (not $v.model.pvc.claimName) -}}
{{- fail "model.pvc.claimName: is needed with model.source=pvc" -}}
{{- else if and (eq $source "hostPath") (not $v.model.hostPath.path) -}}
{{- fail "model.hostPath.path: is needed with model.source=hostPath" -}}
{{- else if and (eq $source "oci") (not $v.model.oci.reference) -}}
{{- fail "model.oci.reference: is needed with model.source=oci" -}}
{{- else if and (eq $source "s3") (not $v.model.s3.uri) -}}
{{- fail "model.s3.uri: is needed with model.source=s3" -}}
{{- end -}}
{{- if and (eq $source "embedded") $v.model.path -}}
{{- fail "model.path: the embedded model has none; set model.source" -}}
{{- end -}}
{{- range $name := list "gateways" "shards" -}}
{{- $group := get $v $name -}}
{{- $least := int (include "galerne.minReplicas" $group) -}}
{{- $most := int (include "galerne.maxReplicas" $group) -}}
{{- if gt $least $most -}}
{{- fail (printf "%s.minReplicas: %d is more than maxReplicas %d" $name $least $most) -}}
{{- end -}}
{{- if or (lt (int $group.replicas) $least) (gt (int $group.replicas) $most) -}}
{{- fail (printf "%s.replicas: %d is not between minReplicas %d and maxReplicas %d" $name (int $group.replicas) $least $most) -}}
{{- end -}}
{{- if and (ne $least $most) (not (include "galerne.autoscales" $)) -}}
{{- fail (printf "%s.maxReplicas: pods come and go with deployment=rayservice and mode=auto only" $name) -}}
{{- end -}}
{{- end -}}
{{- include "galerne.gpuChecks" . -}}
{{- $shards := include "galerne.shardProcesses" . -}}
{{- if eq $v.mode "auto" -}}
{{- if not (kindIs "invalid" $v.shards.processes) -}}
{{- fail "shards.processes: is what mode auto chooses; leave it unset" -}}
{{- else if not (kindIs "invalid" $v.gateways.processes) -}}
{{- fail "gateways.processes: is what mode auto chooses; leave it unset" -}}
{{- else if ne $v.transport "auto" -}}
{{- fail (printf "transport: %s; is what mode auto chooses; leave it at auto" $v.transport) -}}
{{- end -}}
{{- else -}}
{{- if and (eq $v.transport "local") $shards (ne $shards "1") -}}
{{- fail (printf "transport: local keeps the experts in the gateway, but there are %s shards; set shards.replicas=0 or another transport" $shards) -}}
{{- end -}}
{{- if and $shards (gt (int $v.expertCopies) (int $shards)) -}}
{{- fail (printf "expertCopies: %d copies need as many shards, there are %s" (int $v.expertCopies) $shards) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $v.deployment "rayservice") (ne $v.tls.mode "off") -}}
{{- fail "tls.mode: with deployment=rayservice Ray Serve opens the ports; end TLS at the ingress" -}}
{{- end -}}
{{- if and (eq $v.deployment "plain") (eq $v.gcsFaultTolerance.backend "redis") -}}
{{- fail "gcsFaultTolerance.backend: redis needs deployment=rayservice; plain keeps its state in rocksdb" -}}
{{- end -}}
{{- if and (eq $v.gcsFaultTolerance.backend "redis") (not $v.gcsFaultTolerance.redis.address) -}}
{{- fail "gcsFaultTolerance.redis.address: is needed with backend redis" -}}
{{- end -}}
{{- if and (eq $v.tls.mode "secret") (not $v.tls.secretName) -}}
{{- fail "tls.secretName: is needed with tls.mode=secret" -}}
{{- end -}}
{{- if and (eq $v.internalTls.mode "secret") (not $v.internalTls.secretName) -}}
{{- fail "internalTls.secretName: is needed with internalTls.mode=secret" -}}
{{- end -}}
{{- if and (eq $v.tls.mode "off") $v.tls.clientCaSecret -}}
{{- fail "tls.clientCaSecret: clients show certificates with TLS only; set tls.mode" -}}
{{- end -}}
{{- if and (or (eq $v.tls.mode "certManager") (eq $v.internalTls.mode "certManager")) (not $v.certManager.issuerRef.name) -}}
{{- fail "certManager.issuerRef.name: is needed with mode certManager" -}}
{{- end -}}
{{- if and $v.tls.clientCaSecret (has $v.probes.handler (list "http" "grpc")) -}}
{{- fail (printf "probes.handler: %s shows no certificate, which clients need (tls.clientCaSecret); use exec" $v.probes.handler) -}}
{{- end -}}
{{- if and (ne $v.tls.mode "off") (eq $v.probes.handler "grpc") -}}
{{- fail "probes.handler: a gRPC probe of Kubernetes speaks no TLS; use http or exec" -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.http.host) (not $v.ingress.grpc.host) -}}
{{- fail "ingress.http.host: ingress.enabled needs a host for http or grpc" -}}
{{- end -}}
{{- if and $v.gatewayApi.enabled (not $v.gatewayApi.parentRefs) -}}
{{- fail "gatewayApi.parentRefs: is needed with gatewayApi.enabled" -}}
{{- end -}}
{{- if and $v.auth.apiKeysSecret (not $v.auth.testKey.name) $v.test.enabled -}}
{{- fail "auth.testKey: helm test needs a key where keys are asked for; or set test.enabled=false" -}}
{{- end -}}
{{- end -}}
