"""A real Istio control plane on one machine, without containers: etcd, kube-apiserver, istiod, and pods as network namespaces."""
