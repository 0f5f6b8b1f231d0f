{{/* Names, labels, and what cannot be: said at rendering rather than at night. */}}

{{- define "madang.name" -}}
{{- if contains "madang" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-madang{{ end -}}
{{- end }}

{{- define "madang.account" -}}
{{- .Values.serviceAccount.name | default (include "madang.name" .) -}}
{{- end }}

{{- define "madang.selector" -}}
app.kubernetes.io/name: madang
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "madang.labels" -}}
{{ include "madang.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: madang
{{- if .Values.helmLabels }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}
{{- end }}

{{- define "madang.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end }}

{{- define "madang.host" -}}
{{ include "madang.name" . }}.{{ .Release.Namespace }}.svc:{{ .Values.api.port }}
{{- end }}

{{- define "madang.checked" -}}
{{- if and (not .Values.database.secretName) (gt (int .Values.replicas) 1) -}}
{{- fail (printf "replicas is %d without database.secretName: SQLite is one file for one replica; name a Secret with a PostgreSQL address, or set replicas=1 and state.volume.enabled=true" (int .Values.replicas)) -}}
{{- end -}}
{{- if and (not .Values.database.secretName) (not .Values.state.volume.enabled) -}}
{{- fail "neither database.secretName nor state.volume.enabled: what was acknowledged would be lost with the pod; name a Secret with a PostgreSQL address, or set state.volume.enabled=true" -}}
{{- end -}}
{{- if and .Values.state.volume.enabled (gt (int .Values.replicas) 1) (not .Values.state.volume.existingClaim) (ne .Values.state.volume.accessMode "ReadWriteMany") -}}
{{- fail (printf "state.volume.accessMode is %s with %d replicas: both write code snapshots; use ReadWriteMany, or state.volume.enabled=false" .Values.state.volume.accessMode (int .Values.replicas)) -}}
{{- end -}}
{{- end }}
