// Runs in Chromium: Microsoft's renderer, as Teams' own client uses it, with Markdown switched on as there.
import * as AdaptiveCards from 'adaptivecards';
import MarkdownIt from 'markdown-it';

const markdown = new MarkdownIt({ html: false });
AdaptiveCards.AdaptiveCard.onProcessMarkdown = (text, result) => {
  result.outputHtml = markdown.render(text);
  result.didProcess = true;
};

function made(json) {
  const card = new AdaptiveCards.AdaptiveCard();
  card.hostConfig = new AdaptiveCards.HostConfig(window.hostConfig ?? {});
  const context = new AdaptiveCards.SerializationContext();
  // Microsoft's own member, which this renderer does not know.
  const { msteams, ...rest } = json;
  card.parse(rest, context);
  const events = [];
  for (let at = 0; at < context.eventCount; at++) {
    const { phase, event, message } = context.getEventAt(at);
    events.push(`${AdaptiveCards.ValidationPhase[phase]} ${AdaptiveCards.ValidationEvent[event]}: ${message}`);
  }
  const validated = card.validateProperties();
  for (const event of validated.validationEvents) events.push(`${AdaptiveCards.ValidationEvent[event.event]}: ${event.message}`);
  return { card, events };
}

function actionsOf(value) {
  if (Array.isArray(value)) return value.flatMap(actionsOf);
  if (!value || typeof value !== 'object') return [];
  const own = typeof value.type === 'string' && value.type.startsWith('Action.') ? [value.type === 'Action.OpenUrl' ? value.url : value.type] : [];
  return [...own, ...Object.values(value).flatMap(actionsOf)];
}

window.judgeCard = (json) => {
  const { card, events } = made(json);
  const node = card.render();
  document.body.append(node);
  const seen = {
    events,
    actions: actionsOf(json),
    links: [...node.querySelectorAll('a[href]')].map((link) => link.href),
    clickable: node.querySelectorAll('button, a, input, [role=button], [role=link], [onclick]').length,
    text: node.innerText,
  };
  node.remove();
  return seen;
};

window.showCard = (json) => {
  const { card } = made(json);
  document.getElementById('card').replaceChildren(card.render());
};
