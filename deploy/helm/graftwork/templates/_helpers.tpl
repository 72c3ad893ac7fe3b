{{- define "graftwork.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels that select one component's pods; call with (dict "root" . "component" "serving"). They never change. */}}
{{- define "graftwork.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "graftwork.labels" -}}
{{ include "graftwork.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "graftwork.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "graftwork.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "graftwork.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{/* What every pod's spec begins with. */}}
{{- define "graftwork.podSpec" -}}
serviceAccountName: {{ include "graftwork.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- end -}}

{{/* Of every container. */}}
{{- define "graftwork.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The store's URL and credentials. */}}
{{- define "graftwork.storeEnv" -}}
- name: GRAFT_STORE_URL
  value: {{ required "store.url is required: s3://bucket/prefix?endpoint=https://..." .Values.store.url | quote }}
{{- with .Values.store.credentials }}
{{- if .secretName }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef: {name: {{ .secretName | quote }}, key: {{ .accessKeyId | quote }}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef: {name: {{ .secretName | quote }}, key: {{ .secretAccessKey | quote }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* What both services need. */}}
{{- define "graftwork.serviceEnv" -}}
{{ include "graftwork.storeEnv" . }}
- name: GRAFT_BACKBONE
  value: {{ .Values.backbone.name | quote }}
- name: GRAFT_OPERATOR_KEY_FILE
  value: /etc/graftwork/operator/{{ .Values.operatorKey.key }}
{{- end -}}

{{/* TLS settings of one service; call with (dict "root" . "prefix" "GRAFT_SERVING"). */}}
{{- define "graftwork.tlsEnv" -}}
{{- if .root.Values.tls.secretName }}
- name: {{ .prefix }}_TLS_CERTIFICATE
  value: /etc/graftwork/tls/tls.crt
- name: {{ .prefix }}_TLS_KEY
  value: /etc/graftwork/tls/tls.key
{{- if .root.Values.tls.clientCa }}
- name: {{ .prefix }}_TLS_CLIENT_CA
  value: /etc/graftwork/tls/ca.crt
{{- end }}
{{- end }}
{{- end -}}

{{/* Further settings; call with the map. */}}
{{- define "graftwork.extraEnv" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* Mounts that both services have; secrets as whole folders, since single files are not updated when they change. */}}
{{- define "graftwork.serviceMounts" -}}
- name: operator
  mountPath: /etc/graftwork/operator
  readOnly: true
- name: tmp
  mountPath: /tmp
- name: shm
  mountPath: /dev/shm
{{- if .Values.tls.secretName }}
- name: tls
  mountPath: /etc/graftwork/tls
  readOnly: true
{{- end }}
{{- if .Values.backbone.volume }}
- name: models
  mountPath: /models
  readOnly: true
{{- end }}
{{- end -}}

{{/* Their volumes; call with (dict "root" . "shm" "1Gi"). */}}
{{- define "graftwork.serviceVolumes" -}}
- name: operator
  secret:
    secretName: {{ .root.Values.operatorKey.secretName | quote }}
    defaultMode: 0440
- name: tmp
  emptyDir: {}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .shm | quote }}}
{{- if .root.Values.tls.secretName }}
- name: tls
  secret:
    secretName: {{ .root.Values.tls.secretName | quote }}
    defaultMode: 0440
{{- end }}
{{- if .root.Values.backbone.volume }}
- name: models
  {{- toYaml .root.Values.backbone.volume | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Resources with GPUs added; a GPU's request and limit are one number. Call with the component's values. */}}
{{- define "graftwork.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if gt (int .gpu.count) 0 -}}
{{- $_ := set $resources "limits" (merge (dict .gpu.resourceName (int .gpu.count)) (default dict $resources.limits)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Where a pod may run; call with the component's values. */}}
{{- define "graftwork.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- if and .gpu (gt (int .gpu.count) 0) .gpu.runtimeClassName }}
runtimeClassName: {{ .gpu.runtimeClassName | quote }}
{{- end }}
{{- end -}}
