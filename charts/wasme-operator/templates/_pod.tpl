{{- define "wasme-operator.podTemplate" -}}
metadata:
  annotations:
    kubectl.kubernetes.io/default-container: manager
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "wasme-operator.selector" . | nindent 4 }}
    # The operator is outside the mesh, because sidecars fetch modules from it before they can run a filter.
    istio.io/dataplane-mode: none
    sidecar.istio.io/inject: "false"
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "wasme-operator.serviceAccount" . }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with include "wasme-operator.priorityClass" . }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if kindIs "invalid" .Values.affinity }}
  affinity:
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "wasme-operator.selector" . | nindent 14 }}
  {{- else }}
  affinity:
    {{- toYaml .Values.affinity | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  containers:
  - name: manager
    image: {{ include "wasme-operator.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args:
    {{- include "wasme-operator.args" . | nindent 4 }}
    env:
    - name: GOMEMLIMIT
      value: {{ .Values.goMemoryLimit | quote }}
    {{- with .Values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    ports:
    - name: metrics
      containerPort: 8080
    - name: health
      containerPort: 8081
    - name: modules
      containerPort: 8082
    # A node that starts many pods at once may be slow.
    startupProbe:
      httpGet:
        path: /healthz
        port: health
      periodSeconds: 2
      failureThreshold: 30
    livenessProbe:
      httpGet:
        path: /healthz
        port: health
    readinessProbe:
      httpGet:
        path: /readyz
        port: health
      periodSeconds: 2
    # Until every node knows that the pod stops, sidecars are still sent here.
    lifecycle:
      preStop:
        sleep:
          seconds: 5
    resources:
      {{- toYaml .Values.resources | nindent 6 }}
    securityContext:
      {{- include "wasme-operator.securityContext" . | nindent 6 }}
    volumeMounts:
    - name: modules
      mountPath: /var/lib/wasme/modules
    {{- with .Values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or .Values.extraVolumes (not .Values.moduleStore.persistent) }}
  volumes:
  {{- if not .Values.moduleStore.persistent }}
  - name: modules
    emptyDir:
      sizeLimit: {{ .Values.moduleStore.size }}
  {{- end }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- end }}
{{- end -}}

{{- define "wasme-operator.securityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop:
  - ALL
readOnlyRootFilesystem: true
{{- end -}}
