// Package deps keeps the import graph of the module what docs/architecture.md
// says it is. It holds tests only:
//
//   - every package of the module has a floor, and imports go down only;
//   - adapters do not know each other, nor what stands on them;
//   - the core reaches no module but a few named ones, so whoever imports it
//     gets no driver of a database or a broker;
//   - every module that go.mod requires has its line in docs/dependencies.md.
//
// The rules are in floors_test.go. They are about what a package is built from;
// its tests may import what they like.
package deps
