{{- define "outrigger.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- /* Room is left for the longest suffix, `-rollout-manager`. */}}
{{- define "outrigger.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := include "outrigger.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "outrigger.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: outrigger
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* (dict "root" $ "component" "operator"). Immutable in a Deployment: never add to it. */}}
{{- define "outrigger.selector" -}}
app.kubernetes.io/name: {{ include "outrigger.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* Without version and chart: an upgrade that changes nothing in a pod restarts none. */}}
{{- define "outrigger.podLabels" -}}
{{ include "outrigger.selector" . }}
app.kubernetes.io/part-of: outrigger
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- with .values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "outrigger.componentLabels" -}}
{{ include "outrigger.selector" . }}
{{ include "outrigger.labels" .root }}
{{- end }}

{{- /* (dict "root" $ "name" "operator") */}}
{{- define "outrigger.image" -}}
{{- $image := .root.Values.image }}
{{- $path := printf "%s/%s:%s" $image.repositoryPrefix .name (default .root.Chart.AppVersion $image.tag) }}
{{- with index $image.digests .name }}
{{- $path = printf "%s/%s@%s" $image.repositoryPrefix $.name . }}
{{- end }}
{{- if $image.registry }}{{ printf "%s/%s" $image.registry $path }}{{ else }}{{ $path }}{{ end }}
{{- end }}

{{- define "outrigger.podSecurity" -}}
{{- toYaml (default dict .Values.podSecurityContext) }}
{{- end }}

{{- define "outrigger.containerSecurity" -}}
{{- toYaml (default dict .Values.securityContext) }}
{{- end }}

{{- /* Where a pod may stand: (dict "root" $ "component" "operator" "values" .Values.operator). Wishes, not demands: a
cluster of one node runs all of it. */}}
{{- define "outrigger.placement" -}}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if not (kindIs "invalid" .values.affinity) }}
affinity: {{- toYaml .values.affinity | nindent 2 }}
{{- else }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- include "outrigger.selector" . | nindent 12 }}
{{- end }}
{{- if not (kindIs "invalid" .values.topologySpreadConstraints) }}
topologySpreadConstraints: {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else }}
topologySpreadConstraints:
- maxSkew: 1
  topologyKey: topology.kubernetes.io/zone
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "outrigger.selector" . | nindent 6 }}
{{- end }}
{{- end }}
