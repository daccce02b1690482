{{- /* What the injector is told of every sidecar. */ -}}
{{- define "selvedge.settings" -}}
{{- $resources := .Values.sidecar.resources }}
image: {{ include "selvedge.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
trustDomain: {{ .Values.trustDomain }}
ca: {{ include "selvedge.caUrl" . }}
clusterDomain: {{ ternary .Values.clusterDomain "" .Values.sidecar.discovery | quote }}
ownNamespace: {{ .Release.Namespace }}
excludedNamespaces: {{ toJson .Values.injector.excludedNamespaces }}
native: {{ .Values.sidecar.native }}
strict: {{ eq .Values.sidecar.mtls "strict" }}
log: {{ .Values.sidecar.log | quote }}
resources:
  - {{ dig "requests" "cpu" "" $resources | default nil | toJson }}
  - {{ dig "limits" "cpu" "" $resources | default nil | toJson }}
  - {{ dig "requests" "memory" "" $resources | default nil | toJson }}
  - {{ dig "limits" "memory" "" $resources | default nil | toJson }}
{{- end }}

{{- /* What the chart knows of a gateway. */ -}}
{{- define "selvedge.gatewayConfig" -}}
{{- if .Values.gateway.mesh }}
identity:
  trustDomain: {{ .Values.trustDomain }}
  ca: {{ include "selvedge.caUrl" . }}
  bundle: /var/run/selvedge/trust/ca.pem
  token: /var/run/secrets/selvedge/token
{{- end }}
kubernetes:
  token: /var/run/secrets/selvedge-api/token
  ca: /var/run/secrets/selvedge-api/ca.crt
  clusterDomain: {{ .Values.clusterDomain }}
admin: { health: "[::]:15020" }
drain: { delay: {{ .Values.gateway.drainDelaySeconds }}s }
{{- end }}
