// What the files here are checked with. A module of its own keeps the parsers of
// Kubernetes, Compose, Helm and Prometheus out of the program's go.mod.
module github.com/ffstream/ffstream/deploy

go 1.26.7

replace github.com/ffstream/ffstream => ../
