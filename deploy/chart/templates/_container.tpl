{{/* The Sidegate container, which both forms use. */}}
{{- define "sidegate.container" -}}
name: sidegate
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: ["run", "--config", "/etc/sidegate/sidegate.toml"]
env:
  {{- include "sidegate.env" . | nindent 2 }}
ports:
  - name: http
    containerPort: 4180
  - name: operations
    containerPort: 9180
startupProbe:
  httpGet:
    path: /readyz
    port: operations
  periodSeconds: 1
  failureThreshold: 60
readinessProbe:
  httpGet:
    path: /readyz
    port: operations
  periodSeconds: 5
  failureThreshold: 2
# Succeeds if the process answers and needs no restart. An unavailable provider or an unavailable shared store is no
# reason for a restart.
livenessProbe:
  httpGet:
    path: /healthz
    port: operations
  periodSeconds: 10
  failureThreshold: 3
  timeoutSeconds: 5
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  runAsUser: 65532
  runAsGroup: 65532
  runAsNonRoot: true
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities:
    drop: ["ALL"]
volumeMounts:
  - name: sidegate-config
    mountPath: /etc/sidegate
    readOnly: true
  - name: sidegate-secrets
    mountPath: /run/secrets/sidegate
    readOnly: true
  {{- if .Values.redis.secretName }}
  - name: sidegate-redis
    mountPath: /run/secrets/redis
    readOnly: true
  {{- end }}
  {{- if .Values.tls.secretName }}
  - name: sidegate-tls
    mountPath: /run/secrets/tls
    readOnly: true
  {{- end }}
  {{- with .Values.volumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* The settings that the chart decides. A variable has precedence over the settings file. */}}
{{- define "sidegate.env" -}}
{{- $redis := .Values.redis -}}
- name: SIDEGATE__WATCH
  value: "true"
- name: SIDEGATE__SERVER__LISTEN
  value: "0.0.0.0:4180"
- name: SIDEGATE__SERVER__WORKERS
  value: {{ .Values.workers | int64 | quote }}
- name: SIDEGATE__OPERATIONS__LISTEN
  value: "0.0.0.0:9180"
- name: SIDEGATE__LOGIN__STATE_KEY_FILE
  value: {{ printf "/run/secrets/sidegate/%s" .Values.stateKeysFile | quote }}
- name: SIDEGATE__SESSION__CAPACITY_MIB
  value: {{ .Values.cacheMib | int64 | quote }}
{{- if .Values.tls.secretName }}
- name: SIDEGATE__SERVER__CERTIFICATE_FILE
  value: /run/secrets/tls/tls.crt
- name: SIDEGATE__SERVER__KEY_FILE
  value: /run/secrets/tls/tls.key
{{- end }}
{{- if $redis.urls }}
- name: SIDEGATE__SESSION__STORE__REDIS__URLS
  value: {{ toJson $redis.urls | quote }}
- name: SIDEGATE__SESSION__STORE__REDIS__DATABASE
  value: {{ $redis.database | int64 | quote }}
- name: SIDEGATE__SESSION__STORE__REDIS__PREFIX
  value: {{ $redis.prefix | quote }}
{{- with $redis.sentinelMaster }}
- name: SIDEGATE__SESSION__STORE__REDIS__SENTINEL_MASTER
  value: {{ . | quote }}
{{- end }}
{{- range $name := list "username" "password" "sentinelUsername" "sentinelPassword" "ca" "clientCert" "clientKey" }}
{{- with get $redis (printf "%sFile" $name) }}
- name: SIDEGATE__SESSION__STORE__REDIS__{{ $name | snakecase | upper }}_FILE
  value: {{ printf "/run/secrets/redis/%s" . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}
