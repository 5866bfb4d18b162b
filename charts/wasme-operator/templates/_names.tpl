{{- /* The name of what belongs to the release; 52 characters leave room for what controllers append. */ -}}
{{- define "wasme-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* What the pods are selected by. It is also what config/default selects, so that Helm can take over its objects. */ -}}
{{- define "wasme-operator.selector" -}}
app.kubernetes.io/name: wasme-operator
{{- end -}}

{{- define "wasme-operator.labels" -}}
{{ include "wasme-operator.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "wasme-operator.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "wasme-operator.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "wasme-operator.priorityClass" -}}
{{- .Values.priorityClass.name | default (ternary (include "wasme-operator.fullname" .) "" .Values.priorityClass.create) -}}
{{- end -}}

{{- define "wasme-operator.image" -}}
{{- $digest := .Values.image.digest -}}
{{- if not .Values.image.tag -}}
{{- $digest = $digest | default (index .Chart.Annotations "wasme.io/image-digest") -}}
{{- end -}}
{{- if $digest -}}
{{- printf "%s@%s" .Values.image.repository $digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "wasme-operator.moduleServerUrl" -}}
{{- .Values.flags.moduleServerUrl | default (printf "http://wasme-modules.%s.svc.%s" .Release.Namespace .Values.clusterDomain) -}}
{{- end -}}
