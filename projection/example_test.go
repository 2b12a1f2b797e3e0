package projection_test

import (
	"fmt"
	"strings"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/projection"
)

// show folds events into documents and prints them. Programs leave that to a
// consumer, and tests to package projectiontest.
func show[S any](p *projection.Projection[S], events ...event.Event) {
	states, order := map[string]any{}, []string(nil)
	for i := range events {
		var t projection.Touched
		if err := p.Touch(&events[i], &t); err != nil {
			fmt.Println(err)
			continue
		}
		for _, id := range documents(&t) {
			if states[id] == nil {
				states[id] = p.Init(events[i].Tenant, id)
				order = append(order, id)
			}
			if _, err := p.Apply(states[id], &events[i], &t); err != nil {
				fmt.Println(err)
			}
		}
	}
	for _, id := range order {
		data, err := p.Encode(states[id])
		fmt.Println(id, string(data), err)
	}
}

func ExampleNew() {
	type Order struct {
		Lines  int  `json:"lines"`
		Closed bool `json:"closed"`
	}
	type LineAdded struct {
		SKU string `json:"sku"`
	}
	type Closed struct{}

	orders := projection.New("orders",
		projection.On("LineAdded", func(o *Order, e projection.Event[LineAdded]) error {
			if o.Closed {
				return fmt.Errorf("line %q comes after the end", e.Data.SKU)
			}
			o.Lines++
			return nil
		}),
		projection.On("Closed", func(o *Order, _ projection.Event[Closed]) error {
			o.Closed = true
			return nil
		}),
	)
	show(orders,
		event.Event{Stream: "order-1", Type: "LineAdded", Data: []byte(`{"sku":"tea"}`)},
		event.Event{Stream: "order-1", Type: "LineAdded", Data: []byte(`{"sku":"nut"}`)},
		event.Event{Stream: "order-1", Type: "Closed", Data: []byte(`{}`)},
		event.Event{Stream: "order-1", Type: "LineAdded", Data: []byte(`{"sku":"pot"}`)},
	)
	// Output:
	// handler: line "pot" comes after the end
	// order-1 {"lines":2,"closed":true} <nil>
}

func ExampleHandler_By() {
	type Customer struct{ Orders int }
	type Placed struct{ Customer string }

	customers := projection.New("customers",
		projection.On("Placed", func(c *Customer, _ projection.Event[Placed]) error {
			c.Orders++
			return nil
		}).By(func(e projection.Event[Placed]) string { return e.Data.Customer }),
	)
	show(customers,
		event.Event{Stream: "order-1", Type: "Placed", Data: []byte(`{"Customer":"ann"}`)},
		event.Event{Stream: "order-2", Type: "Placed", Data: []byte(`{"Customer":"bob"}`)},
		event.Event{Stream: "order-3", Type: "Placed", Data: []byte(`{"Customer":"ann"}`)},
	)
	// Output:
	// ann {"Orders":2} <nil>
	// bob {"Orders":1} <nil>
}

func ExampleHandler_ByEach() {
	type Tag struct{ Articles []string }
	type Tagged struct{ Tags []string }

	tags := projection.New("tags",
		projection.On("Tagged", func(t *Tag, e projection.Event[Tagged]) error {
			t.Articles = append(t.Articles, e.Stream)
			return nil
		}).ByEach(func(e projection.Event[Tagged]) []string { return e.Data.Tags }),
	)
	show(tags,
		event.Event{Stream: "article-1", Type: "Tagged", Data: []byte(`{"Tags":["go","sql"]}`)},
		event.Event{Stream: "article-2", Type: "Tagged", Data: []byte(`{"Tags":["go"]}`)},
	)
	// Output:
	// go {"Articles":["article-1","article-2"]} <nil>
	// sql {"Articles":["article-1"]} <nil>
}

func ExampleProjection_Initial() {
	type Account struct{ Owner, Currency string }
	type Opened struct{ Owner string }

	accounts := projection.New("accounts",
		projection.On("Opened", func(a *Account, e projection.Event[Opened]) error {
			a.Owner = e.Data.Owner
			return nil
		}),
	).Initial(func(tenant, id string) Account { return Account{Currency: "CZK"} })
	show(accounts, event.Event{Stream: "account-1", Type: "Opened", Data: []byte(`{"Owner":"ann"}`)})
	// Output:
	// account-1 {"Owner":"ann","Currency":"CZK"} <nil>
}

// The second version of an event splits the name; its metadata say
// "schema": "2". Events of the first one are turned into it.
func ExampleUpcast() {
	type Person struct{ Greeting string }
	type Registered1 struct{ Name string }
	type Registered2 struct{ First, Last string }

	people := projection.New("people",
		projection.On("Registered@2", func(p *Person, e projection.Event[Registered2]) error {
			p.Greeting = "Dear " + e.Data.First
			return nil
		}),
	).Upcast(
		projection.Upcast("Registered", "Registered@2", func(old Registered1) (Registered2, error) {
			first, last, _ := strings.Cut(old.Name, " ")
			return Registered2{first, last}, nil
		}),
	)
	show(people,
		event.Event{Stream: "ann", Type: "Registered", Data: []byte(`{"Name":"Ann Lee"}`)},
		event.Event{Stream: "bob", Type: "Registered", Data: []byte(`{"First":"Bob","Last":"Ray"}`), Metadata: event.Metadata{"schema": "2"}},
	)
	// Output:
	// ann {"Greeting":"Dear Ann"} <nil>
	// bob {"Greeting":"Dear Bob"} <nil>
}
