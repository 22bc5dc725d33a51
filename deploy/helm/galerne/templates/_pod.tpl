{{/* What all pods share. Each takes the list root, component (head, gateway, shard), its values. */}}

{{/* Of the pod: everything but containers */}}
{{- define "galerne.podSpec" -}}
{{- $root := index . 0 -}}{{- $component := index . 1 -}}{{- $group := index . 2 -}}
{{- $v := $root.Values -}}
{{- $isAutoscalersHead := and (eq $component "head") (include "galerne.autoscales" $root) -}}
{{- if not $isAutoscalersHead -}}
serviceAccountName: {{ include "galerne.serviceAccount" $root }}
automountServiceAccountToken: false
{{ end -}}
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "galerne.graceSeconds" $root }}
securityContext: {{- toYaml $v.podSecurityContext | nindent 2 }}
{{- with $v.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $v.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $v.schedulerName }}
schedulerName: {{ . }}
{{- end }}
{{- with $group.gpu.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $group.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $group.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $group.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $group.failureDomains }}
topologySpreadConstraints:
  {{- range . }}
  - topologyKey: {{ .topologyKey }}
    maxSkew: {{ .maxSkew | default 1 }}
    whenUnsatisfiable: {{ .whenUnsatisfiable | default "ScheduleAnyway" }}
    labelSelector:
      matchLabels: {{- include "galerne.selector" (list $root $component) | nindent 8 }}
  {{- end }}
{{- end }}
volumes: {{- include "galerne.volumes" . | nindent 2 }}
{{- end -}}

{{- define "galerne.podMetadata" -}}
{{- $root := index . 0 -}}{{- $component := index . 1 -}}{{- $group := index . 2 -}}
labels:
  {{- include "galerne.selector" (list $root $component) | nindent 2 }}
  app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
  {{- with $group.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  kubectl.kubernetes.io/default-container: {{ include "galerne.container" . }}
  {{- if include "galerne.readsConfig" . }}
  galerne.io/config: {{ include "galerne.config" $root | sha256sum | trunc 16 | quote }}{{/* other settings: other pods */}}
  {{- end }}
  {{- with $group.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "galerne.container" -}}
{{- if eq (index . 0).Values.deployment "plain" }}galerne
{{- else if eq (index . 1) "head" }}ray-head
{{- else }}ray-worker
{{- end -}}
{{- end -}}

{{/* With KubeRay any node may be asked to build the application. */}}
{{- define "galerne.readsConfig" -}}
{{- if or (eq (index . 1) "head") (eq (index . 0).Values.deployment "rayservice") }}true{{ end -}}
{{- end -}}

{{- define "galerne.volumes" -}}
{{- $root := index . 0 -}}{{- $component := index . 1 -}}
{{- $v := $root.Values -}}
{{- if include "galerne.readsConfig" . -}}
- name: config
  configMap:
    name: {{ include "galerne.fullname" $root }}
{{ end -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ $v.scratchSize }}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ $v.ray.sharedMemory }}
{{- if include "galerne.isOpen" $root }}
- name: ray-token
  secret:
    secretName: {{ include "galerne.tokenSecret" $root }}
    defaultMode: 0440
{{- end }}
{{- if ne $v.internalTls.mode "off" }}
- name: internal-tls
  secret:
    secretName: {{ include "galerne.internalTlsSecret" $root }}
    defaultMode: 0440
{{- end }}
{{- if eq $component "head" }}
{{- range $name, $secret := include "galerne.headSecrets" $root | fromYaml }}
- name: {{ $name }}
  secret:
    secretName: {{ $secret }}
    defaultMode: 0440
{{- end }}
{{- if include "galerne.headClaim" $root }}
- name: ray-storage
  persistentVolumeClaim:
    claimName: {{ include "galerne.headClaim" $root }}
{{- end }}
{{- end }}
{{- if eq $v.model.source "pvc" }}
- name: model
  persistentVolumeClaim:
    claimName: {{ $v.model.pvc.claimName }}
    readOnly: true
{{- else if eq $v.model.source "hostPath" }}
- name: model
  hostPath:
    path: {{ $v.model.hostPath.path }}
    type: Directory
{{- else if ne $v.model.source "embedded" }}
- name: model
  emptyDir:
    sizeLimit: {{ $v.model.scratchSize }}
{{- end }}
{{- if and (eq $v.model.source "oci") $v.model.oci.credentialsSecret }}
- name: registry
  secret:
    secretName: {{ $v.model.oci.credentialsSecret }}
    defaultMode: 0440
    items:
      - key: .dockerconfigjson
        path: config.json
{{- end }}
{{- with $v.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Secrets of the frontend, by the name of their folder in /etc/galerne */}}
{{- define "galerne.headSecrets" -}}
{{- $v := .Values -}}
{{- with $v.auth.apiKeysSecret }}
api-keys: {{ . }}
{{- end }}
{{- with $v.auth.adminKeysSecret }}
admin-keys: {{ . }}
{{- end }}
{{- if ne $v.tls.mode "off" }}
tls: {{ include "galerne.tlsSecret" . }}
{{- end }}
{{- with $v.tls.clientCaSecret }}
client-ca: {{ . }}
{{- end }}
{{- end -}}

{{- define "galerne.headClaim" -}}
{{- if and (eq .Values.deployment "plain") (eq .Values.gcsFaultTolerance.backend "rocksdb") -}}
{{- .Values.gcsFaultTolerance.rocksdb.claimName -}}
{{- end -}}
{{- end -}}

{{- define "galerne.volumeMounts" -}}
{{- $root := index . 0 -}}{{- $component := index . 1 -}}
{{- $v := $root.Values -}}
{{- if include "galerne.readsConfig" . -}}
{{/* As a file: secrets are mounted beside it. */ -}}
- {name: config, mountPath: /etc/galerne/galerne.yaml, subPath: galerne.yaml, readOnly: true}
{{ end -}}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
{{- if include "galerne.isOpen" $root }}
- {name: ray-token, mountPath: /etc/galerne/ray-token, readOnly: true}
{{- end }}
{{- if ne $v.internalTls.mode "off" }}
- {name: internal-tls, mountPath: /etc/galerne/internal-tls, readOnly: true}
{{- end }}
{{- if eq $component "head" }}
{{- range $name, $_ := include "galerne.headSecrets" $root | fromYaml }}
- {name: {{ $name }}, mountPath: /etc/galerne/{{ $name }}, readOnly: true}
{{- end }}
{{- if include "galerne.headClaim" $root }}
- {name: ray-storage, mountPath: /var/lib/galerne/ray}
{{- end }}
{{- end }}
{{- if ne $v.model.source "embedded" }}
- {name: model, mountPath: {{ include "galerne.modelRoot" $root }}, readOnly: true}
{{- end }}
{{- with $v.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Of a group: GPUs are asked for as limits; requests that say another number are refused */}}
{{- define "galerne.resources" -}}
{{/* No limit of the CPU: the scheduler's pauses would be tokens' pauses. */ -}}
{{- $own := dict "requests" (dict "cpu" (toString .cores) "memory" .memory) "limits" (dict "memory" .memory) -}}
{{- $made := ternary (deepCopy .resources) $own (gt (len .resources) 0) -}}
{{- if .gpu.count -}}
{{- range $kind := list "requests" "limits" -}}
{{- $_ := set $made $kind (merge (get $made $kind | default dict) (dict $.gpu.resource $.gpu.count)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $made -}}
{{- end -}}

{{- define "galerne.env" -}}
{{- $root := index . 0 -}}{{- $component := index . 1 -}}{{- $group := index . 2 -}}
{{- $v := $root.Values -}}
{{- with $v.ray.healthCheck -}}
- {name: RAY_health_check_period_ms, value: {{ .periodMs | quote }}}
- {name: RAY_health_check_timeout_ms, value: {{ .timeoutMs | quote }}}
- {name: RAY_health_check_failure_threshold, value: {{ .failureThreshold | quote }}}
{{- end }}
- {name: RAY_gcs_rpc_server_reconnect_timeout_s, value: {{ $v.ray.headPatienceSeconds | quote }}}
{{- /* How soon a node learns that its head is a new one, which knows none of the old one's nodes: it
       ends then, and joins anew. Ray's default is 60 s, which it spends retrying. */}}
- {name: RAY_raylet_liveness_self_check_interval_ms, value: "3000"}
{{- /* How soon a node gives up its connections to a head that was lost without a word, and asks for
       the service's name again: TCP_USER_TIMEOUT of all that Ray's gRPC clients send. Ray's default
       is 120 s; its servers' own is this. */}}
- {name: RAY_grpc_client_keepalive_timeout_ms, value: "20000"}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: RAY_worker_niceness, value: "0"}
- {name: RAY_AUTH_MODE, value: token}
{{- if include "galerne.isOpen" $root }}
- {name: RAY_AUTH_TOKEN_PATH, value: /etc/galerne/ray-token/token}
{{- end }}
- {name: GALERNE_CORES, value: {{ $group.cores | quote }}}
{{- if and (eq $component "head") $v.tls.clientCaSecret }}
- {name: GALERNE_TLS_CERT, value: /etc/galerne/tls/tls.crt}
- {name: GALERNE_TLS_KEY, value: /etc/galerne/tls/tls.key}
{{- end }}
- {name: HOME, value: /tmp}
- {name: PYTHONDONTWRITEBYTECODE, value: "1"}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- with concat $v.extraEnv $group.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Fetches the checkpoint: a whole container, or nothing */}}
{{- define "galerne.fetchContainer" -}}
{{- $root := index . 0 -}}
{{- $v := $root.Values -}}
{{- $where := include "galerne.modelRoot" $root -}}
{{- if has $v.model.source (list "oci" "s3") -}}
- name: fetch-model
  securityContext: {{- toYaml $v.securityContext | nindent 4 }}
  resources: {{- toYaml $v.model.fetchResources | nindent 4 }}
  {{- if eq $v.model.source "oci" }}
  {{- with $v.model.oci }}
  image: {{ .image }}
  command: [oras]
  args:
    - pull
    - {{ .reference | quote }}
    - --output={{ $where }}
    {{- if .plainHttp }}
    - --plain-http
    {{- end }}
    {{- if .credentialsSecret }}
    - --registry-config=/registry/config.json
    {{- end }}
  env:
    - {name: HOME, value: /tmp}
  {{- end }}
  {{- else }}
  {{- with $v.model.s3 }}
  image: {{ .image }}
  args: {{/* only what is missing or has changed: a restarted container fetches little */}}
    - s3
    - sync
    - --only-show-errors
    {{- if not .credentialsSecret }}
    - --no-sign-request
    {{- end }}
    {{- with .endpointUrl }}
    - --endpoint-url={{ . }}
    {{- end }}
    {{- with .region }}
    - --region={{ . }}
    {{- end }}
    - {{ .uri | quote }}
    - {{ $where }}
  env:
    - {name: HOME, value: /tmp}
  {{- with .credentialsSecret }}
  envFrom:
    - secretRef: {name: {{ . }}}
  {{- end }}
  {{- end }}
  {{- end }}
  volumeMounts:
    - {name: model, mountPath: {{ $where }}}
    - {name: tmp, mountPath: /tmp}
    {{- if and (eq $v.model.source "oci") $v.model.oci.credentialsSecret }}
    - {name: registry, mountPath: /registry, readOnly: true}
    {{- end }}
{{- end }}
{{- end -}}
