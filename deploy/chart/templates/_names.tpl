{{/* The name of all objects of the release. */}}
{{- define "sidegate.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{/* The labels by which Services, policies and budgets select the pods. */}}
{{- define "sidegate.selector" -}}
app.kubernetes.io/name: sidegate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sidegate.labels" -}}
{{ include "sidegate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Refuses values that contradict each other. The schema cannot compare two values. */}}
{{- define "sidegate.check" -}}
{{- $values := .Values }}
{{- if and (not $values.redis.urls) (or (gt (int $values.replicas) 1) $values.autoscaling.enabled) }}
{{- fail "more than one replica needs redis.urls: without a shared store, each session belongs to one pod" }}
{{- end }}
{{- if and $values.autoscaling.enabled (lt (int $values.autoscaling.maxReplicas) (int $values.replicas)) }}
{{- fail (printf "autoscaling.maxReplicas (%d) is less than replicas (%d)" (int $values.autoscaling.maxReplicas) (int $values.replicas)) }}
{{- end }}
{{- if and (eq $values.form "sidecar") (not $values.app.container.image) }}
{{- fail "the form \"sidecar\" needs app.container.image: the app in the pods" }}
{{- end }}
{{- if and (eq $values.form "gateway") (or $values.app.container $values.app.volumes) }}
{{- fail "app.container and app.volumes need the form \"sidecar\"" }}
{{- end }}
{{- range $name := list "sentinelMaster" "secretName" "usernameFile" "passwordFile" "sentinelUsernameFile" "sentinelPasswordFile" "caFile" "clientCertFile" "clientKeyFile" }}
{{- if and (get $values.redis $name) (not $values.redis.urls) }}
{{- fail (printf "redis.%s needs redis.urls" $name) }}
{{- end }}
{{- if and (hasSuffix "File" $name) (get $values.redis $name) (not $values.redis.secretName) }}
{{- fail (printf "redis.%s needs redis.secretName: the Secret with this file" $name) }}
{{- end }}
{{- end }}
{{- if and $values.ingress.enabled (not $values.ingress.hosts) }}
{{- fail "ingress.enabled needs ingress.hosts: the host names of public_url" }}
{{- end }}
{{- end }}
