{{/* What selects the server's pods. */}}
{{- define "tacit-serve.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: server
{{- end }}

{{/* What every object says of itself. */}}
{{- define "tacit-serve.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: tacit
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* An image: call with a list of the root and the repository. */}}
{{- define "tacit-serve.image" -}}
{{- $root := index . 0 -}}
{{- $tag := $root.Values.image.tag -}}
{{/* A number of a file of values is a fraction here, and would be written with an exponent. */}}
{{- if kindIs "float64" $tag }}{{ $tag = int64 $tag }}{{ end -}}
{{ with $root.Values.image.registry }}{{ . }}/{{ end }}{{ index . 1 }}:{{ $tag | default $root.Chart.AppVersion }}
{{- end }}

{{- define "tacit-serve.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* As the `restricted` pod security standard has it, and a read-only file system. */}}
{{- define "tacit-serve.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "tacit-serve.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* The port of an address; call with a list of the address and the port that counts where it names none. */}}
{{- define "tacit-serve.port" -}}
{{- $address := index . 0 | default "" -}}
{{ regexFind "^([^:]+|\\[[^]]+\\]):[0-9]+$" $address | regexFind "[0-9]+$" | default (index . 1) }}
{{- end }}

{{/* The ports of the services with collateral, each once, with spaces between them; empty where nobody is asked. */}}
{{- define "tacit-serve.collateralPorts" -}}
{{- $ports := list -}}
{{- range compact (list .Values.coordinator.pccs .Values.coordinator.kds) -}}
{{- $address := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $address.host | trimPrefix ":" -}}
{{- $ports = append $ports ($port | default (ternary "80" "443" (eq $address.scheme "http"))) -}}
{{- end -}}
{{- join " " (uniq $ports) -}}
{{- end }}

{{- define "tacit-serve.dnsNames" -}}
{{- $name := .Values.name -}}
{{ .Values.marble.dnsNames | default (printf "%s,%s.%s,%s.%s.svc.cluster.local" $name $name .Release.Namespace $name .Release.Namespace) }}
{{- end }}
