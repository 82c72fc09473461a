{{/* Labels of every object. In: a list of the context, a component and a name. */}}
{{- define "tacit.labels" -}}
{{- $top := index . 0 -}}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/name: {{ index . 2 }}
app.kubernetes.io/part-of: marblerun
app.kubernetes.io/version: {{ $top.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $top.Release.Service }}
app.kubernetes.io/instance: {{ $top.Release.Name | quote }}
helm.sh/chart: {{ printf "%s-%s" $top.Chart.Name $top.Chart.Version }}
{{- end }}

{{/* Labels by which the coordinator's pods are found; MarbleRun's programs look for them too. */}}
{{- define "tacit.coordinator" -}}
edgeless.systems/control-plane-component: coordinator
edgeless.systems/control-plane-ns: {{ .Release.Namespace | quote }}
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

{{/*
Where Intel's collateral comes from. MarbleRun's users may give the whole configuration of Intel's library, which has the
address in it, and lines of comments.
*/}}
{{- define "tacit.pccs" -}}
{{- $dcap := .Values.dcap | default dict -}}
{{- if $dcap.qcnlConfig -}}
{{- $read := fromJson (regexReplaceAll "(?m)^\\s*//.*$" $dcap.qcnlConfig "") -}}
{{- $place := $read.pccs_url | default "" | toString -}}
{{- if not (regexMatch "^https?://[^\\s/?#@]+(/[^\\s?#]*)?$" $place) }}
{{- fail "dcap.qcnlConfig is no JSON with an address under pccs_url, which is all that is read of it; say the address in dcap.pccsUrl instead" }}
{{- end -}}
{{ $place }}
{{- else -}}
{{ $dcap.pccsUrl | default "" }}
{{- end -}}
{{- end }}

{{/*
What no chart can be made of, and what MarbleRun's chart has and this one has not; with what to say instead. It is not the
schema that asks for sections: MarbleRun's command line holds it against the values that it gives alone.
*/}}
{{- define "tacit.refuse" -}}
{{- range $name := list "image" "coordinator" "marbleInjector" "networkPolicy" "global" -}}
{{- if not (kindIs "map" (get $.Values $name)) }}
{{- fail (printf "%s is null, and has to be a section; take it out of your values" $name) }}
{{- end -}}
{{- end -}}
{{- range $name := list "metrics" "probes" -}}
{{- if not (kindIs "map" (get $.Values.coordinator $name)) }}
{{- fail (printf "coordinator.%s is null, and has to be a section; take it out of your values" $name) }}
{{- end -}}
{{- end -}}
{{- range $part := list "coordinator" "marbleInjector" -}}
{{- $values := get $.Values $part -}}
{{- range $name := list "repository" "version" "hash" -}}
{{- if get $values $name }}
{{- fail (printf "%s.%s names an image of MarbleRun's; take repository, version and hash out, and name yours with image.registry, image.tag and %s.image" $part $name $part) }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name := list "azureCredentials" "azureHSM" -}}
{{- range $key, $value := get $.Values.coordinator $name | default dict -}}
{{- if $value }}{{ fail (printf "coordinator.%s.%s: sealing with an Azure HSM is not here; take it out" $name $key) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- $ports := list (int .Values.coordinator.clientServerPort) (int .Values.coordinator.meshServerPort) -}}
{{- if .Values.coordinator.metrics.enabled }}{{ $ports = append $ports (int .Values.coordinator.metrics.port) }}{{ end -}}
{{- if ne (len (uniq $ports)) (len $ports) }}
{{- fail (printf "coordinator: the ports of the client API, the mesh API and metrics have to differ, and are %s" (join ", " $ports)) }}
{{- end -}}
{{- end }}

{{/* The ports of the services with collateral, each once, with spaces between them; empty where nobody is asked. */}}
{{- define "tacit.collateralPorts" -}}
{{- $ports := list -}}
{{- $dcap := .Values.dcap | default dict -}}
{{- range $place := compact (list (include "tacit.pccs" .) $dcap.kdsUrl) -}}
{{- $address := urlParse $place -}}
{{- $port := regexFind ":[0-9]+$" $address.host | trimPrefix ":" -}}
{{- $ports = append $ports ($port | default (ternary "80" "443" (eq $address.scheme "http"))) -}}
{{- end -}}
{{- if not (include "tacit.pretends" .) }}{{ join " " (uniq $ports) }}{{ end -}}
{{- end }}

{{/* In: a list of the context and an image's name. */}}
{{- define "tacit.image" -}}
{{- $top := index . 0 -}}
{{- $tag := $top.Values.image.tag -}}
{{/* A number of a file of values is a fraction here, and would be written with an exponent. */}}
{{- if kindIs "float64" $tag }}{{ $tag = int64 $tag }}{{ end -}}
{{ printf "%s/%s:%v" $top.Values.image.registry (index . 1) ($tag | default $top.Chart.AppVersion) }}
{{- end }}

{{/* Names of Secrets with credentials, each by itself or as Kubernetes has it. */}}
{{- define "tacit.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") . | quote }}
{{- end }}
{{- end }}
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
