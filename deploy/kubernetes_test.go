package deploy_test

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// render runs kustomize and decodes each object into Kubernetes' own type; a field that
// the type does not have fails the test.
func render(t *testing.T, dir string) map[string]any {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]any{}
	for _, r := range resources.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		objects[r.GetKind()] = decode(t, r.GetApiVersion()+" "+r.GetKind(), text)
	}
	return objects
}

// decode reads one object strictly.
func decode(t *testing.T, kind string, text []byte) any {
	t.Helper()
	types := map[string]any{
		"apps/v1 Deployment":                 &appsv1.Deployment{},
		"v1 Service":                         &corev1.Service{},
		"v1 ServiceAccount":                  &corev1.ServiceAccount{},
		"v1 ConfigMap":                       &corev1.ConfigMap{},
		"policy/v1 PodDisruptionBudget":      &policyv1.PodDisruptionBudget{},
		"networking.k8s.io/v1 NetworkPolicy": &networkingv1.NetworkPolicy{},
	}
	object, known := types[kind]
	if !known {
		t.Fatalf("an object of kind %s, which no test looks at", kind)
	}
	if err := yaml.UnmarshalStrict(text, object); err != nil {
		t.Errorf("%s: %v\n%s", kind, err, text)
	}
	return object
}

// TestKustomizeBase: two replicas, probed where the service answers, restricted, and the
// objects that select them do.
func TestKustomizeBase(t *testing.T) {
	t.Parallel()
	objects := render(t, "kubernetes/base")
	if len(objects) != 6 {
		t.Errorf("%d objects, want 6", len(objects))
	}
	d := objects["Deployment"].(*appsv1.Deployment)
	pod := &d.Spec.Template.Spec
	checkTrust(t, objects)
	if *d.Spec.Replicas != 2 || len(pod.Containers) != 1 {
		t.Fatalf("%d replicas of %d containers", *d.Spec.Replicas, len(pod.Containers))
	}
	c := &pod.Containers[0]
	checkContainer(t, c, pod, objects["ConfigMap"].(*corev1.ConfigMap))
	if c.ReadinessProbe == nil || c.ReadinessProbe.HTTPGet.Path != "/readyz" {
		t.Error("readiness is not asked for at /readyz")
	}
	if pod.ServiceAccountName != objects["ServiceAccount"].(*corev1.ServiceAccount).Name {
		t.Errorf("the pod runs as %s, which is not here", pod.ServiceAccountName)
	}
	labels, budget := d.Spec.Template.Labels, objects["PodDisruptionBudget"].(*policyv1.PodDisruptionBudget)
	if budget.Spec.Selector == nil {
		t.Fatal("the budget selects nothing")
	}
	for kind, selector := range map[string]map[string]string{
		"Deployment":          d.Spec.Selector.MatchLabels,
		"Service":             objects["Service"].(*corev1.Service).Spec.Selector,
		"PodDisruptionBudget": budget.Spec.Selector.MatchLabels,
		"NetworkPolicy":       objects["NetworkPolicy"].(*networkingv1.NetworkPolicy).Spec.PodSelector.MatchLabels,
	} {
		if len(selector) == 0 {
			t.Errorf("%s selects everything", kind)
		}
		for k, v := range selector {
			if labels[k] != v {
				t.Errorf("%s selects %s=%s, which the pods lack", kind, k, v)
			}
		}
	}
	if port := objects["Service"].(*corev1.Service).Spec.Ports[0]; port.Port != c.Ports[0].ContainerPort || port.TargetPort.String() != c.Ports[0].Name {
		t.Errorf("the service leads to %v", port)
	}
}

// TestKustomizeSidecar: the component puts a native sidecar into the server's pod, and
// leaves the server's readiness to the server.
func TestKustomizeSidecar(t *testing.T) {
	t.Parallel()
	objects := render(t, "kubernetes/example-sidecar")
	pod := &objects["Deployment"].(*appsv1.Deployment).Spec.Template.Spec
	checkTrust(t, objects)
	if len(pod.Containers) != 1 || len(pod.InitContainers) != 1 {
		t.Fatalf("%d containers and %d sidecars", len(pod.Containers), len(pod.InitContainers))
	}
	c := &pod.InitContainers[0]
	if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Error("it is no sidecar: the server would wait for its end")
	}
	if c.ReadinessProbe != nil || c.StartupProbe != nil {
		t.Error("the broker decides on the server's readiness")
	}
	checkContainer(t, c, pod, objects["ConfigMap"].(*corev1.ConfigMap))
}

// checkTrust: what is applied as it is believes no server without proof, and tells the broker
// who it is.
func checkTrust(t *testing.T, objects map[string]any) {
	t.Helper()
	data := objects["ConfigMap"].(*corev1.ConfigMap).Data
	if !strings.Contains(data["FFSTREAM_DATABASE_URL"], "?sslmode=verify-full&sslrootcert=/run/secrets/") || data["FFSTREAM_NATS_PASSWORD_FILE"] == "" {
		t.Errorf("it trusts any server, or says no password: %v", data)
	}
}

// checkContainer holds a container of ffstream against the program, and against the
// restricted pod security standard.
func checkContainer(t *testing.T, c *corev1.Container, pod *corev1.PodSpec, config *corev1.ConfigMap) {
	t.Helper()
	if !slices.Equal(c.Args, []string{"run"}) || c.EnvFrom[0].ConfigMapRef.Name != config.Name {
		t.Errorf("it runs %v with %v, want the configuration %s", c.Args, c.EnvFrom, config.Name)
	}
	var names []string
	env := map[string]string{}
	for name := range config.Data {
		names = append(names, name)
	}
	for _, v := range c.Env {
		env[v.Name] = v.Value
		if strings.HasPrefix(v.Name, "FFSTREAM_") {
			names = append(names, v.Name)
		}
	}
	checkVariables(t, c.Name, strings.Join(names, " "), "run")
	if _, port, _ := strings.Cut(env["FFSTREAM_HTTP_ADDR"], ":"); port != "9464" || c.Ports[0].ContainerPort != 9464 {
		t.Errorf("it listens on %s and port %d is named", port, c.Ports[0].ContainerPort)
	}
	if g := c.LivenessProbe.HTTPGet; g.Path != "/healthz" || g.Port.String() != c.Ports[0].Name {
		t.Errorf("liveness is asked for at %v", g)
	}
	mount := c.VolumeMounts[0]
	if !strings.HasPrefix(env["FFSTREAM_DATABASE_PASSWORD_FILE"], mount.MountPath+"/") || mount.SubPath != "" ||
		!slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name && v.Secret != nil }) {
		t.Errorf("the password is not mounted: %v", mount)
	}
	settings := []string{env["FFSTREAM_DATABASE_PASSWORD_FILE"]}
	for _, value := range config.Data {
		settings = append(settings, value)
	}
	for _, file := range regexp.MustCompile(`/run/secrets/[\w./-]+`).FindAllString(strings.Join(settings, " "), -1) {
		if !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
			return m.MountPath == path.Dir(file) && slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name && v.Secret != nil })
		}) {
			t.Errorf("%s is of no Secret that is mounted", file)
		}
	}
	if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
		t.Errorf("it may use %v", c.Resources)
	}
	s, p := c.SecurityContext, pod.SecurityContext
	root := (s.RunAsNonRoot != nil && *s.RunAsNonRoot) || (p != nil && p.RunAsNonRoot != nil && *p.RunAsNonRoot)
	seccomp := s.SeccompProfile != nil || (p != nil && p.SeccompProfile != nil)
	if !root || !seccomp || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("it is not restricted: %+v", s)
	}
}
