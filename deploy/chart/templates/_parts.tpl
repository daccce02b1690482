{{- /* Parts that several objects share. */ -}}

{{- define "selvedge.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* Labels of an object: (dict "root" $ "name" NAME). */ -}}
{{- define "selvedge.labels" -}}
{{ include "selvedge.selector" . }}
app.kubernetes.io/part-of: selvedge
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "selvedge.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- /* What pods under the profile `restricted` may do. */ -}}
{{- define "selvedge.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "selvedge.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: { drop: [ALL] }
readOnlyRootFilesystem: true
runAsNonRoot: true
{{- end }}

{{- /* What a process asks the Kubernetes API with. */ -}}
{{- define "selvedge.apiVolume" -}}
- name: api
  projected:
    sources:
      - serviceAccountToken: { path: token }
      - configMap:
          name: kube-root-ca.crt
          items: [{ key: ca.crt, path: ca.crt }]
      - downwardAPI:
          items: [{ path: namespace, fieldRef: { fieldPath: metadata.namespace } }]
{{- end }}

{{- define "selvedge.apiFlags" -}}
- --kube-token=/var/run/secrets/selvedge-api/token
- --kube-ca=/var/run/secrets/selvedge-api/ca.crt
{{- end }}

{{- define "selvedge.apiMount" -}}
- { name: api, mountPath: /var/run/secrets/selvedge-api, readOnly: true }
{{- end }}

{{- /* What proves to the CA who a process is, and by what it is trusted. */ -}}
{{- define "selvedge.identityVolumes" -}}
- name: token
  projected:
    sources:
      - serviceAccountToken: { path: token, audience: selvedge-ca, expirationSeconds: 3600 }
- name: trust
  configMap: { name: selvedge-trust }
{{- end }}

{{- define "selvedge.identityMounts" -}}
- { name: token, mountPath: /var/run/secrets/selvedge, readOnly: true }
- { name: trust, mountPath: /var/run/selvedge/trust, readOnly: true }
{{- end }}

{{- /* Where pods go: (dict "root" $ "name" NAME "of" VALUES). */ -}}
{{- define "selvedge.scheduling" -}}
{{- with .of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .of.nodeSelector }}
nodeSelector:
{{ toYaml . | indent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations:
{{ toYaml . | indent 2 }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
{{ toYaml . | indent 2 }}
{{- end }}
{{- end }}

{{- define "selvedge.spread" -}}
topologySpreadConstraints:
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
{{ include "selvedge.selector" $ | indent 8 }}
  {{- end }}
{{- end }}

{{- define "selvedge.caUrl" -}}
https://selvedge-ca.{{ .Release.Namespace }}.svc:15012
{{- end }}
