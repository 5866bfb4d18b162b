{{- /* The manager's arguments: what the chart decides, then the values that are set under `flags`, by their names. */ -}}
{{- define "wasme-operator.args" -}}
- --leader-elect
- {{ printf "--module-server-url=%s" (include "wasme-operator.moduleServerUrl" .) | quote }}
- {{ printf "--peers=%s" (.Values.flags.peers | default (list (printf "http://wasme-modules-peers.%s.svc.%s:8082" .Release.Namespace .Values.clusterDomain)) | join ",") | quote }}
{{- with .Values.watchNamespaces }}
- {{ printf "--watch-namespaces=%s" (join "," .) | quote }}
{{- end }}
- {{ printf "--module-store-max-bytes=%s" (include "wasme-operator.moduleStoreMaxBytes" .) | quote }}
{{- range $name, $value := omit .Values.flags "moduleServerUrl" "peers" "moduleStoreMaxBytes" }}
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

{{- /* Two thirds of the volume: modules that are being pulled need the rest. Nodes evict pods that fill it. */ -}}
{{- define "wasme-operator.moduleStoreMaxBytes" -}}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $size := mulf (regexFind "^[0-9.]+" .Values.moduleStore.size) (get $units (regexFind "[A-Za-z]*$" .Values.moduleStore.size)) | int64 -}}
{{- $bytes := .Values.flags.moduleStoreMaxBytes | default (div (mul $size 2) 3) | int64 -}}
{{- if ge $bytes $size -}}
{{- fail (printf "moduleStore.size is %s, which is not more than the %d bytes of flags.moduleStoreMaxBytes: raise the size" .Values.moduleStore.size $bytes) -}}
{{- end -}}
{{- $bytes -}}
{{- end -}}
