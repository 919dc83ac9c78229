{{- define "ffstream.name" -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "ffstream.selector" -}}
app.kubernetes.io/name: ffstream
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ffstream.labels" -}}
{{ include "ffstream.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}
