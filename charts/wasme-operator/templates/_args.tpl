{{- /* The manager's arguments: what the chart decides, then the values that are set under `flags`, by their names. */ -}}
{{- define "wasme-operator.args" -}}
- --leader-elect
- {{ printf "--module-server-url=%s" (include "wasme-operator.moduleServerUrl" .) | quote }}
- {{ printf "--peers=%s" (.Values.flags.peers | default (list (printf "http://wasme-modules-peers.%s.svc.%s:8082" .Release.Namespace .Values.clusterDomain)) | join ",") | quote }}
{{- with .Values.watchNamespaces }}
- {{ printf "--watch-namespaces=%s" (join "," .) | quote }}
{{- end }}
{{- range $name, $value := omit .Values.flags "moduleServerUrl" "peers" }}
{{- if not (kindIs "invalid" $value) }}
- {{ printf "--%s=%s" (kebabcase $name) (include "wasme-operator.flagValue" $value) | quote }}
{{- end }}
{{- end }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- /* Numbers in files are floating, and large ones would be written with an exponent. */ -}}
{{- define "wasme-operator.flagValue" -}}
{{- if kindIs "slice" . }}{{ join "," . }}{{ else if kindIs "float64" . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end -}}
