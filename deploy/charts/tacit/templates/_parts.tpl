{{/* Labels of every object. In: a list of the context, a component and a name. */}}
{{- define "tacit.labels" -}}
{{- $top := index . 0 -}}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/name: {{ index . 2 }}
app.kubernetes.io/part-of: marblerun
app.kubernetes.io/version: {{ $top.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $top.Release.Service }}
app.kubernetes.io/instance: {{ $top.Release.Name }}
helm.sh/chart: {{ printf "%s-%s" $top.Chart.Name $top.Chart.Version }}
{{- end }}

{{/* Labels by which the coordinator's pods are found; MarbleRun's programs look for them too. */}}
{{- define "tacit.coordinator" -}}
edgeless.systems/control-plane-component: coordinator
edgeless.systems/control-plane-ns: {{ .Release.Namespace }}
{{- end }}

{{- define "tacit.injector" -}}
app.kubernetes.io/name: marble-injector
app.kubernetes.io/part-of: marblerun
{{- end }}

{{/* Whether marbles are asked for no evidence, by our name for it or by MarbleRun's. */}}
{{- define "tacit.unattested" -}}
{{- if or .Values.unattested .Values.coordinator.simulation }}true{{ end -}}
{{- end }}

{{/* Whether no real TEE is asked of the node. */}}
{{- define "tacit.pretends" -}}
{{- if or .Values.simulation (include "tacit.unattested" .) }}true{{ end -}}
{{- end }}

{{/* The ports of the services with collateral, each once, with spaces between them; empty where nobody is asked. */}}
{{- define "tacit.collateralPorts" -}}
{{- $ports := list -}}
{{- $dcap := .Values.dcap | default dict -}}
{{- range $place := compact (list $dcap.pccsUrl $dcap.kdsUrl) -}}
{{- $address := urlParse $place -}}
{{- $port := regexFind ":[0-9]+$" $address.host | trimPrefix ":" -}}
{{- $ports = append $ports ($port | default (ternary "80" "443" (eq $address.scheme "http"))) -}}
{{- end -}}
{{- if not (include "tacit.pretends" .) }}{{ join " " (uniq $ports) }}{{ end -}}
{{- end }}

{{/* In: a list of the context and an image's name. */}}
{{- define "tacit.image" -}}
{{- $top := index . 0 -}}
{{ printf "%s/%s:%s" $top.Values.image.registry (index . 1) ($top.Values.image.tag | default $top.Chart.AppVersion) }}
{{- end }}

{{/* What "restricted" of the Pod Security Standards asks of a pod, and of a container. */}}
{{- define "tacit.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "tacit.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The coordinator's resources; where nothing protects it, without those of a TEE. */}}
{{- define "tacit.resources" -}}
{{- $found := deepCopy (.Values.coordinator.resources | default dict) -}}
{{- if include "tacit.pretends" . -}}
{{- range $part := list "limits" "requests" -}}
{{- $kept := dict -}}
{{- range $key, $amount := (get $found $part | default dict) -}}
{{- if not (contains "/" $key) }}{{ $_ := set $kept $key $amount }}{{ end -}}
{{- end -}}
{{- if $kept }}{{ $_ := set $found $part $kept }}{{ else }}{{ $_ := unset $found $part }}{{ end -}}
{{- end -}}
{{- end -}}
{{ toYaml $found }}
{{- end }}

{{/* The names of the coordinator's certificate. */}}
{{- define "tacit.names" -}}
{{- $names := list "localhost" -}}
{{- range $service := list "coordinator-mesh-api" "coordinator-client-api" -}}
{{- $place := printf "%s.%s" $service $.Release.Namespace -}}
{{- $names = concat $names (list $service $place (printf "%s.svc" $place) (printf "%s.svc.%s" $place $.Values.marbleInjector.clusterDomain)) -}}
{{- end -}}
{{- with .Values.coordinator.hostname }}{{ . }},{{ end }}{{ join "," $names }}
{{- end }}
